"""The multi-layer perceptron."""

import math
from collections.abc import Callable, Sequence

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from losslab.losses import Loss
from losslab.models.classifier import Classifier, EvaluateTrain


class MLP(Classifier):
    """Flattened pixels through fully connected ReLU layers.

    The default, one hidden layer of 10, is the course report's network: on 784 pixels and 10 classes it has
    (784 + 1) * 10 + (10 + 1) * 10 = 7,960 trainable parameters.

    Args:
        hidden: width of each hidden layer, from the input on; empty for a linear classifier.
        batch_norm: normalise each hidden layer before its ReLU (Ioffe & Szegedy 2015, arXiv:1502.03167).
        dropout: share of hidden units dropped in training, in [0, 1).
        num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train: see Classifier.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (10,),
        batch_norm: bool = False,
        dropout: float = 0.0,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        evaluate_train: EvaluateTrain = "last_epoch",
    ) -> None:
        super().__init__(num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train)
        if any(width < 1 for width in hidden) or not 0 <= dropout < 1:
            raise ValueError(f"hidden widths must be >= 1 and dropout in [0, 1), got {list(hidden)} and {dropout}")
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(image_shape)
        for width in hidden:
            # Batch norm subtracts the mean, and a bias before it would do nothing.
            layers.append(nn.Linear(features, width, bias=not batch_norm))
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(dropout)] if dropout else []
            features = width
        self.network = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
