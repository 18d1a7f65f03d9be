"""Focal loss for softmax classifiers, in a form that stays finite and exact at any logit."""

import math

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.pointwise import PointwiseLoss


class FocalLoss(PointwiseLoss):
    """l(z, t) = -(1 - p_t)^gamma log p_t, in [0, inf) (Lin et al. 2017, arXiv:1708.02002, equation 4, for softmax).

    gamma = 0 is cross-entropy. A larger one takes gradient from images that are already classified with confidence:
    at p_t = 0.9 and gamma = 2 it is 0.03 times that of cross-entropy, at p_t below about 0.3 it is larger. The factor
    acts on all classes alike, so at the optimum the order of the classes' probabilities, and with it precision and
    recall of the most probable class, stay as they are; confidence falls. What gamma does to a real training is what
    `make sweep-gamma` shows.

    Args:
        gamma: >= 0.
        reduction, class_weights, label_smoothing: see PointwiseLoss.
    """

    gamma: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, class_weights, label_smoothing)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
        self.register_buffer("gamma", torch.tensor(float(gamma)), persistent=False)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma.item():g}"

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._focal(*log_probabilities.of_label(logits, label))

    def of_every_class(self, logits: Tensor) -> Tensor:
        return self._focal(*log_probabilities.of_every_class(logits))

    def _focal(self, log_p: Tensor, log_1_minus_p: Tensor) -> Tensor:
        # The power as an exponential: its derivative at 1 - p = 0 is finite for every gamma.
        return -torch.exp(self.gamma * log_1_minus_p) * log_p
