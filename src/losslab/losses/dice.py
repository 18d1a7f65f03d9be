"""Soft dice: one minus a soft F1 score of each class, over the batch."""

import torch
from torch import Tensor

from losslab.losses.loss import ClassWeights, Loss, Reduction


class DiceLoss(Loss):
    """Mean over the classes in the batch of 1 - D_c, in [0, 1] (Milletari et al. 2016, arXiv:1606.04797, equation 1).

    D_c = 2 sum_i p_ic y_ic / (sum_i p_ic^r + sum_i y_ic^r), sums over the images i of the batch; r = 2 if squared,
    else 1. It is 0 for perfect predictions. It depends on the batch as a whole: on which classes it holds and on its
    size, and under several processes on each rank's own batch. A class without an image in the batch (no target above
    0) does not count.

    Its gradient carries the factor p_t: near a random start it is about C times smaller than that of cross-entropy,
    and it vanishes for confident mistakes. Use Adam or a higher learning rate, or add cross-entropy. It rewards
    overlap, and is for users whose measure is F1 and who do not need probabilities.

    Args:
        squared: squares in the denominator (r = 2).
        reduction: "mean", over the classes in the batch, weighted by class_weights; "sum", over the same; "none", one
            value a class, (C,), 0 for classes not in the batch. There is no value for each image.
        class_weights: see Loss.
    """

    def __init__(
        self, squared: bool = False, reduction: Reduction = "mean", class_weights: ClassWeights = None
    ) -> None:
        super().__init__(reduction, class_weights)
        self.squared = squared

    def extra_repr(self) -> str:
        return f"squared={self.squared}"

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        if target.ndim == 1:
            target = (target.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)).to(p.dtype)
        overlap = (p * target).sum(dim=0)
        size = (p.square() + target.square() if self.squared else p + target).sum(dim=0)
        present = target.sum(dim=0) > 0
        # An absent class may have a size of 0; it is masked, but 0/0 would put NaN into its gradient.
        loss = torch.where(present, 1 - 2 * overlap / torch.where(present, size, 1), 0)
        weight = present.to(p.dtype) if self.class_weights is None else present * self.class_weights.to(p.dtype)
        loss = loss * weight if self.class_weights is not None else loss
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.sum() / weight.sum()
