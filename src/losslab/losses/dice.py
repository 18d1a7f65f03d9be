"""Soft dice: one minus a soft F1 score of each class, over the batch."""

import torch.nn.functional as F
from torch import Tensor

from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.overlap import OverlapLoss


class DiceLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - D_c, in [0, 1] (Milletari et al. 2016, arXiv:1606.04797, section 3).

    D_c = 2 I_c / S_c, I_c = sum_i p_ic y_ic, S_c = sum_i p_ic^r + sum_i y_ic^r, sums over the images i of the batch;
    r = 1, or the paper's r = 2 if squared. Computed as 1 - D_c = sum_i |p_ic - y_ic|^r / S_c for hard labels, so that
    nothing cancels near a perfect prediction. See OverlapLoss for what follows from being a score of the batch.

    Gradient: dl/dp_ic = -(2 y_ic - D_c) / (m S_c) for r = 1 and -2 (y_ic - D_c p_ic) / (m S_c) for r = 2, with m
    classes in the batch. Averaged over labels its sign for r = 1 is that of D_c - 2 P(c | x): at the optimum
    everything with P(c | x) > D_c / 2 is predicted with p = 1 (`losslab.losses.dice_threshold`). So one-vs-rest dice
    predicts at least as many positives as cross-entropy: recall up, precision down, most for hard and rare classes.

    Limits: the logits' gradient carries the factor p_t. Near a random start it is about C times smaller than that of
    cross-entropy, and it vanishes for confident mistakes, at p_t -> 0 as 2 p_t. Use Adam or a higher learning rate,
    or add cross-entropy (CompoundLoss). It is for users whose measure is F1 or overlap, and who do not need
    probabilities.

    Args:
        squared: squares in the denominator (r = 2).
        reduction, class_weights, ignore_index: see OverlapLoss.
    """

    def __init__(
        self,
        squared: bool = False,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, class_weights, ignore_index)
        self.squared = squared

    def extra_repr(self) -> str:
        return f"squared={self.squared}"

    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        # fp - fn = p - y, and p^2 + y^2 = (p - y)^2 + 2 p y. torch's squared error holds one matrix (N, C) less.
        misses = F.mse_loss(fp, fn, reduction="none").sum(dim=0) if self.squared else fp.sum(dim=0) + fn.sum(dim=0)
        return misses, misses + 2 * tp.sum(dim=0)
