"""Losses that compare predicted and true sets of a class over the batch."""

from abc import abstractmethod

import torch
from torch import Tensor

from losslab.losses.loss import Loss


class OverlapLoss(Loss):
    """Mean over the classes in the batch of 1 - score, in [0, 1]. A subclass says what the score of a class is.

    It is 0 for perfect predictions. It depends on the batch as a whole: on which classes it holds and on its size, and
    under several processes on each rank's own batch. A class without an image in the batch (no target above 0) does
    not count.

    Args:
        reduction: "mean", over the classes in the batch, weighted by class_weights; "sum", over the same; "none", one
            value a class, (C,), 0 for classes not in the batch. There is no value for each image.
        class_weights: see Loss.
    """

    @abstractmethod
    def score(self, p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of each class's score: two tensors (C,), from p and target (N, C)."""

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        if target.ndim == 1:
            target = (target.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)).to(p.dtype)
        overlap, size = self.score(p, target)
        present = target.sum(dim=0) > 0
        # An absent class may have a size of 0; it is masked, but 0/0 would put NaN into its gradient.
        loss = torch.where(present, 1 - overlap / torch.where(present, size, 1), 0)
        weight = present.to(p.dtype) if self.class_weights is None else present * self.class_weights.to(p.dtype)
        loss = loss * weight if self.class_weights is not None else loss
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.sum() / weight.sum()
