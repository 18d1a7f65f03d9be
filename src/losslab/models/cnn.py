"""A small, fast convolutional network."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losslab.models.classifier import Classifier


class CNN(Classifier):
    """Three convolutions with batch norm, the first two with max pooling, dropout and a linear layer.

    Sizes on 28 x 28: 5 x 5 to 24 x 24, pooled to 12 x 12; 3 x 3 to 10 x 10, pooled to 5 x 5; 3 x 3 to 3 x 3. Most time
    is spent on large images; so there is no padding, and pooling comes before batch norm (the same maximum for a
    quarter of the work).

    Args:
        widths: channels of the three convolutions.
        crop: pixels cut off at each edge of the image first, >= 0. MNIST's digits are in the middle; crop=2 takes
            three quarters of the time.
        dropout: share of the features dropped before the last layer in training, in [0, 1).
        max_pooling: if False, the first two convolutions have stride 2 instead, with as many parameters.
        kwargs: the arguments of Classifier. Height and width must be at least 20 + 2 crop.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        crop: int = 0,
        dropout: float = 0.1,
        max_pooling: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        channels, height, width = self.image_shape
        if len(widths) != 3 or any(w < 1 for w in widths) or not 0 <= dropout < 1:
            raise ValueError(f"widths must be three numbers >= 1 and dropout in [0, 1), got {widths} and {dropout}")
        if crop < 0 or min(height, width) - 2 * crop < 20:
            raise ValueError(f"crop must be >= 0 and leave 20 x 20 pixels or more, got {crop} for {height} x {width}")
        first, second, third = widths
        first_pool, second_pool = ([nn.MaxPool2d(2)] if max_pooling else [] for _ in range(2))
        stride = 1 if max_pooling else 2

        def halved(size: int, kernel: int) -> int:
            return (size - kernel + 1) // 2 if max_pooling else (size - kernel) // 2 + 1

        features = third * math.prod(halved(halved(size - 2 * crop, 5), 3) - 2 for size in (height, width))
        self.network = nn.Sequential(
            *([nn.ZeroPad2d(-crop)] if crop else []),
            *[nn.Conv2d(channels, first, 5, stride, bias=False), *first_pool, nn.BatchNorm2d(first), nn.ReLU()],
            *[nn.Conv2d(first, second, 3, stride, bias=False), *second_pool, nn.BatchNorm2d(second), nn.ReLU()],
            *[nn.Conv2d(second, third, 3, bias=False), nn.BatchNorm2d(third), nn.ReLU()],
            *[nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, self.num_classes)],
        )
        # Twice as fast on CPU, and the layout that tensor cores need.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
