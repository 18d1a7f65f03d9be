"""Soft dice: one minus a soft F1 score of each class, over the batch."""

from torch import Tensor

from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.overlap import OverlapLoss


class DiceLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - D_c, in [0, 1] (Milletari et al. 2016, arXiv:1606.04797, equation 1).

    D_c = 2 sum_i p_ic y_ic / (sum_i p_ic^r + sum_i y_ic^r), sums over the images i of the batch; r = 2 if squared,
    else 1. See OverlapLoss for what follows from being a score of the batch.

    Its gradient carries the factor p_t: near a random start it is about C times smaller than that of cross-entropy,
    and it vanishes for confident mistakes. Use Adam or a higher learning rate, or add cross-entropy. It rewards
    overlap, and is for users whose measure is F1 and who do not need probabilities.

    Args:
        squared: squares in the denominator (r = 2).
        reduction, class_weights: see OverlapLoss.
    """

    def __init__(
        self, squared: bool = False, reduction: Reduction = "mean", class_weights: ClassWeights = None
    ) -> None:
        super().__init__(reduction, class_weights)
        self.squared = squared

    def extra_repr(self) -> str:
        return f"squared={self.squared}"

    def score(self, p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        size = p.square() + target.square() if self.squared else p + target
        return 2 * (p * target).sum(dim=0), size.sum(dim=0)
