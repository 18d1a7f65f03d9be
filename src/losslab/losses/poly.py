"""Poly-1: cross-entropy with another weight for the first term of its expansion."""

import math
from typing import Any

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class PolyLoss(PointwiseLoss):
    """l(z, t) = -log p_t + epsilon (1 - p_t) (Leng et al. 2022, arXiv:2204.12511, equation 6).

    Cross-entropy is sum_{j >= 1} (1 - p_t)^j / j; epsilon changes the weight of j = 1.

    Gradient: dl/dz = (1 + epsilon p_t) (p - onehot(t)). Limits: epsilon = 0 is cross-entropy; above 0, confident images
    keep more gradient, below 0 less; at -1 the first term is zero, and l ~ (1 - p_t)^2 / 2 as p_t -> 1. As p_t -> 0
    the gradient is cross-entropy's.

    Precision and recall of the most probable class change little; confidence rises with epsilon, the reverse of focal
    loss.

    Args:
        epsilon: >= -1; then the loss falls with p_t everywhere.
        kwargs: the arguments of PointwiseLoss.
    """

    epsilon: Tensor

    def __init__(self, epsilon: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not -1 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be >= -1 and finite, got {epsilon}")
        self.add_number("epsilon", epsilon)

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._poly(*log_probabilities.per_image(logits, label))

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return self._poly(*log_probabilities.per_class(logits))

    def _poly(self, log_p: Tensor, log_1_minus_p: Tensor) -> Tensor:
        x = log_1_minus_p.exp()
        small = x.clamp_max(0.125)
        return torch.where(x < 0.125, (1 + self.epsilon) * small + _higher_terms(small), self.epsilon * x - log_p)


def _higher_terms(x: Tensor) -> Tensor:
    """Return -log(1 - x) - x = sum_{j >= 2} x^j / j for 0 <= x <= 1/8, where the difference would lose digits.

    With w = x / (2 - x), -log(1 - x) = 2 artanh(w) = 2 (w + w^3 / 3 + w^5 / 5 + ...), and x = 2 w / (1 + w).
    """
    w = x / (2 - x)
    series = sum(w ** (2 * j) / (2 * j + 3) for j in range(7))  # w^2 <= 1/225: seven terms are enough for float64
    return 2 * w.square() * (1 / (1 + w) + w * series)
