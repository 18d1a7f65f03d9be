"""Focal loss for softmax classifiers, in a form that stays finite and exact at any logit."""

import math

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.pointwise import PointwiseLoss


class FocalLoss(PointwiseLoss):
    """l(z, t) = -(1 - p_t)^gamma log p_t, in [0, inf) (Lin et al. 2017, arXiv:1708.02002, equation 4, for softmax).

    Gradient: dl/dz = A (p - onehot(t)), A = (1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) log p_t: that of
    cross-entropy times A, the `focal_gradient_ratio`. A > 1 for p_t below one p*(gamma) < 1/2 (`focal_crossover`: 0.30
    for gamma = 2) and A < 1 above: at p_t = 0.9 and gamma = 2 it is 0.03.

    Limits: gamma = 0 is cross-entropy, bit for bit; the loss falls with gamma at every p_t; as p_t -> 0 it tends to
    cross-entropy, so hopeless images keep their full pull; as p_t -> 1 it vanishes as (1 - p_t)^(gamma + 1).

    Precision and recall: the factor acts on all classes alike and its optimum keeps the order of the classes'
    probabilities, so that precision and recall of the most probable class stay as they are; confidence falls, and with
    it coverage at a fixed threshold (`focal_to_probability` maps it back). Use it where confidence is too high, or for
    a flood of easy images; for rare classes, class weights and LogitAdjustedLoss do more. What gamma does to a real
    training is what `make sweep-gamma` shows.

    Args:
        gamma: >= 0.
        reduction, class_weights, label_smoothing, ignore_index: see PointwiseLoss.
    """

    gamma: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, class_weights, label_smoothing, ignore_index)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
        self.register_buffer("gamma", torch.tensor(float(gamma)), persistent=False)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma.item():g}"

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        return focal(*log_probabilities.of_label(logits, label), self.gamma)

    def of_every_class(self, logits: Tensor) -> Tensor:
        return focal(*log_probabilities.of_every_class(logits), self.gamma)


def focal(log_p: Tensor, log_1_minus_p: Tensor, gamma: Tensor) -> Tensor:
    """-(1 - p)^gamma log p, elementwise, from log p and log(1 - p)."""
    # The power as an exponential: its derivative at 1 - p = 0 is finite for every gamma.
    return -torch.exp(gamma * log_1_minus_p) * log_p
