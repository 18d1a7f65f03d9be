"""A CNN of depthwise separable convolutions."""

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from losslab.losses import Loss
from losslab.models.classifier import Classifier, EvaluateTrain


class SeparableCNN(Classifier):
    """A plain convolution, then depthwise separable ones (Howard et al. 2017, arXiv:1704.04861, section 3.1).

    A separable convolution filters each channel by itself (3 x 3) and then mixes the channels (1 x 1): from 32 to 64
    channels 32 * 9 + 32 * 64 = 2,336 weights instead of 32 * 64 * 9 = 18,432. It saves parameters and arithmetic; it
    does not by itself add accuracy.

    Args:
        widths: channels after the first convolution and after each separable one; each but the last is followed by
            2 x 2 max pooling.
        dropout: share of the features dropped before the last layer in training, in [0, 1).
        num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train: see Classifier. Height and width must
            be at least 2^len(widths).
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.1,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        evaluate_train: EvaluateTrain = "last_epoch",
    ) -> None:
        super().__init__(num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train)
        channels, height, width = image_shape
        if not widths or any(w < 1 for w in widths) or not 0 <= dropout < 1:
            raise ValueError(f"widths must be >= 1 and dropout in [0, 1), got {list(widths)} and {dropout}")
        if min(height, width) < 2 ** len(widths):
            raise ValueError(
                f"{len(widths)} widths need images of {2 ** len(widths)} pixels or more, got {image_shape}"
            )
        pooled = len(widths) - 1
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 5, padding=2, bias=False)]
        for number, here in enumerate(widths):
            if number:
                layers += separable_convolution(widths[number - 1], here)
            # Pooled before normalised: the same maximum for a quarter of the work.
            layers += [nn.MaxPool2d(2)] if number < pooled else []
            layers += [nn.BatchNorm2d(here), nn.ReLU()]
        features = widths[-1] * (height // 2**pooled) * (width // 2**pooled)
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, num_classes))
        # Twice as fast on CPU, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def separable_convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Depthwise 3 x 3, then pointwise 1 x 1, the size of the image kept, without bias."""
    return [
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
    ]
