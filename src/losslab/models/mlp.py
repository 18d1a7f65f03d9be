"""The multi-layer perceptron."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from losslab.models.classifier import Classifier


class MLP(Classifier):
    """Fully connected ReLU layers on flattened pixels.

    The default, one hidden layer of 10, is the course report's network: on 784 pixels and 10 classes it has
    (784 + 1) * 10 + (10 + 1) * 10 = 7,960 trainable parameters.

    Args:
        hidden: width of each hidden layer, the one nearest to the input first; empty for a linear classifier.
        batch_norm: normalise each hidden layer before its ReLU (Ioffe & Szegedy 2015, arXiv:1502.03167).
        dropout: share of hidden units dropped in training, in [0, 1).
        kwargs: the arguments of Classifier.
    """

    def __init__(
        self, hidden: Sequence[int] = (10,), batch_norm: bool = False, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if any(width < 1 for width in hidden) or not 0 <= dropout < 1:
            raise ValueError(f"hidden widths must be >= 1 and dropout in [0, 1), got {list(hidden)} and {dropout}")
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(self.image_shape)
        for width in hidden:
            # Batch norm subtracts the mean, so a bias before it has no effect.
            layers.append(nn.Linear(features, width, bias=not batch_norm))
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(dropout)] if dropout else []
            features = width
        self.network = nn.Sequential(*layers, nn.Linear(features, self.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
