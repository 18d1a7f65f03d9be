"""A residual network for small images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losslab.models.classifier import Classifier


class ResNet(Classifier):
    """A stem that halves the image, then stages of residual blocks, each at half the previous stage's size.

    He et al. 2016 (arXiv:1512.03385, section 4.2), shaped for 28 x 28: 14 x 14, 7 x 7 and 4 x 4 pixels.

    Args:
        widths: channels of each stage.
        blocks: residual blocks in each stage.
        dropout: share of the pooled features dropped before the last layer in training, in [0, 1).
        kwargs: the arguments of Classifier.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64), blocks: int = 1, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not widths or any(w < 1 for w in widths) or blocks < 1 or not 0 <= dropout < 1:
            got = f"{list(widths)}, {blocks} and {dropout}"
            raise ValueError(f"widths and blocks must be >= 1 and dropout in [0, 1), got {got}")
        stem = [nn.Conv2d(self.image_shape[0], widths[0], 5, padding=2, bias=False), nn.MaxPool2d(2)]
        layers: list[nn.Module] = [*stem, nn.BatchNorm2d(widths[0]), nn.ReLU()]
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(ResidualBlock(channels, width, stride=2 if stage and not block else 1))
                channels = width
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, self.num_classes)]
        self.network = nn.Sequential(*layers, *head)
        # Twice as fast on CPU, and the layout that tensor cores need.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class ResidualBlock(nn.Module):
    """relu(x + F(x)) with F two 3 x 3 convolutions; where the shape changes, a 1 x 1 convolution of x replaces x."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.residual(x))
