"""Poly-1: cross-entropy with another weight on the first term of its expansion."""

import math

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.pointwise import PointwiseLoss


class PolyLoss(PointwiseLoss):
    """l(z, t) = -log p_t + epsilon (1 - p_t) (Leng et al. 2022, arXiv:2204.12511, equation 6).

    Cross-entropy is sum_{j >= 1} (1 - p_t)^j / j; epsilon changes the weight of j = 1. epsilon = 0 is cross-entropy;
    above 0, confident images keep more gradient: dl/dz_t = -(1 - p_t)(1 + epsilon p_t); below 0, less. At -1 the first
    term is gone. Precision and recall move little at argmax; confidence rises with epsilon.

    Args:
        epsilon: >= -1, so that the loss falls with p_t everywhere.
        reduction, class_weights, label_smoothing: see PointwiseLoss.
    """

    epsilon: Tensor

    def __init__(
        self,
        epsilon: float = 1.0,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, class_weights, label_smoothing)
        if not -1 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be >= -1 and finite, got {epsilon}")
        self.register_buffer("epsilon", torch.tensor(float(epsilon)), persistent=False)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon.item():g}"

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._poly(*log_probabilities.of_label(logits, label))

    def of_every_class(self, logits: Tensor) -> Tensor:
        return self._poly(*log_probabilities.of_every_class(logits))

    def _poly(self, log_p: Tensor, log_1_minus_p: Tensor) -> Tensor:
        return self.epsilon * log_1_minus_p.exp() - log_p
