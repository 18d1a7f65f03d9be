"""Tversky loss: the direct knob between precision and recall."""

import math

import torch
from torch import Tensor

from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.overlap import OverlapLoss


class TverskyLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - TP / (TP + alpha FP + beta FN) (Salehi et al. 2017, arXiv:1706.05721).

    TP = sum_i p_ic y_ic, FP = sum_i p_ic (1 - y_ic), FN = sum_i (1 - p_ic) y_ic over the images i of the batch. A
    larger alpha punishes false positives: more precision; a larger beta false negatives: more recall. alpha = beta =
    0.5 is dice, alpha = beta = 1 the soft Jaccard index. See OverlapLoss for what it has in common with dice.

    Args:
        alpha: weight of false positives, >= 0.
        beta: weight of false negatives, >= 0; not both 0.
        reduction, class_weights: see OverlapLoss.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(reduction, class_weights)
        if not 0 <= alpha < math.inf or not 0 <= beta < math.inf or alpha + beta == 0:
            raise ValueError(f"alpha and beta must be >= 0, finite and not both 0, got {alpha} and {beta}")
        self.register_buffer("alpha", torch.tensor(float(alpha)), persistent=False)
        self.register_buffer("beta", torch.tensor(float(beta)), persistent=False)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha.item():g}, beta={self.beta.item():g}"

    def score(self, p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        overlap = (p * target).sum(dim=0)
        false_positives = (p * (1 - target)).sum(dim=0)
        false_negatives = ((1 - p) * target).sum(dim=0)
        return overlap, overlap + self.alpha * false_positives + self.beta * false_negatives
