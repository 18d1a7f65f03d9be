"""Tversky loss: the direct knob between precision and recall."""

import math

import torch
from torch import Tensor

from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.overlap import OverlapLoss


class TverskyLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - TP / (TP + alpha FP + beta FN) (Salehi et al. 2017, arXiv:1706.05721).

    Equations 2 and 3 there, with TP = sum_i p_ic y_ic, FP = sum_i p_ic (1 - y_ic), FN = sum_i (1 - p_ic) y_ic over the
    images i of the batch. The direct knob between precision and recall: a larger alpha punishes false positives, more
    precision; a larger beta false negatives, more recall.

    Gradient, with T = TP / S, S = TP + alpha FP + beta FN and m classes in the batch:
    dl/dp_ic = -(y_ic - T (alpha + (1 - alpha - beta) y_ic)) / (m S).

    Limits: alpha = beta = 0.5 is dice, alpha = beta = 1 the soft Jaccard index; (1, 0) is one minus the soft precision,
    whose minimum may predict almost nothing, and (0, 1) one minus the soft recall, whose minimum may predict anything:
    keep both above 0. As dice, it lets go of confident mistakes. See OverlapLoss for the rest.

    Args:
        alpha: weight of false positives, >= 0.
        beta: weight of false negatives, >= 0; not both 0.
        reduction, class_weights, ignore_index: see OverlapLoss.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, class_weights, ignore_index)
        if not 0 <= alpha < math.inf or not 0 <= beta < math.inf or alpha + beta == 0:
            raise ValueError(f"alpha and beta must be >= 0, finite and not both 0, got {alpha} and {beta}")
        self.register_buffer("alpha", torch.tensor(float(alpha)), persistent=False)
        self.register_buffer("beta", torch.tensor(float(beta)), persistent=False)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha.item():g}, beta={self.beta.item():g}"

    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        misses = self.alpha * fp.sum(dim=0) + self.beta * fn.sum(dim=0)
        return misses, misses + tp.sum(dim=0)
