"""The convolutional network: small and fast."""

import math
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from losslab.losses import Loss
from losslab.models.classifier import Classifier, EvaluateTrain


class CNN(Classifier):
    """Three convolutions with batch norm, the first two with max pooling, dropout and a linear layer.

    On 28 x 28: 5 x 5 to 24 x 24, pooled to 12 x 12; 3 x 3 to 10 x 10, pooled to 5 x 5; 3 x 3 to 3 x 3. Without
    padding, and with the pooling before the normalisation (the same maximum for a quarter of the work), because time
    goes to the large images.

    Args:
        widths: channels of the three convolutions.
        crop: pixels cut off at each edge of the image first, >= 0. MNIST's digits lie in the middle; with 2 a step
            takes three quarters of the time.
        dropout: share of the features dropped before the last layer in training, in [0, 1).
        max_pooling: False lets the first two convolutions take steps of two pixels instead: as many parameters.
        num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train: see Classifier. Height and width must
            be at least 20 + 2 crop.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        crop: int = 0,
        dropout: float = 0.1,
        max_pooling: bool = True,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        evaluate_train: EvaluateTrain = "last_epoch",
    ) -> None:
        super().__init__(num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train)
        channels, height, width = image_shape
        if len(widths) != 3 or any(w < 1 for w in widths) or not 0 <= dropout < 1:
            raise ValueError(f"widths must be three numbers >= 1 and dropout in [0, 1), got {widths} and {dropout}")
        if crop < 0 or min(height, width) - 2 * crop < 20:
            raise ValueError(
                f"crop must be >= 0 and leave 20 x 20 pixels or more, got {crop} for images of {height} x {width}"
            )
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
            *[nn.Flatten(), nn.Dropout(dropout), nn.Linear(features, num_classes)],
        )
        # Twice as fast on CPU, and what tensor cores want.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
