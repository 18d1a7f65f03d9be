"""Losses that compare predicted and true sets of a class over the batch."""

from abc import abstractmethod

import torch
from torch import Tensor

from losslab.losses.loss import Loss


class OverlapLoss(Loss):
    """Mean over the classes in the batch of a ratio, misses over size, in [0, 1]. A subclass says which.

    It is 0 for perfect predictions. It depends on the batch as a whole: on which classes it holds and on its size, and
    under several processes on each rank's own batch. A class without an image in the batch (no target above 0) does
    not count.

    Args:
        reduction: "mean", over the classes in the batch, weighted by class_weights, and 0 if there is none or their
            weights sum to 0; "sum", over the same; "none", one value a class, (C,), 0 for classes not in the batch.
            There is no value for each image.
        class_weights, ignore_index: see Loss.
    """

    @abstractmethod
    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of each class's loss: two tensors (C,).

        Args:
            tp: p_ic y_ic, each image's true positive share of each class, (N, C).
            fp: p_ic (1 - y_ic), false positive, (N, C).
            fn: (1 - p_ic) y_ic, false negative, (N, C).
        """

    def compute(self, logits: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        p = logits.softmax(dim=1)
        if kept is not None:
            p = p * kept.unsqueeze(1)
        if target.ndim == 1:
            is_label = target.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)
            is_label = is_label if kept is None else is_label & kept.unsqueeze(1)
            images, shares = is_label.sum(dim=0), _shares_of_labels(p, is_label)
        else:
            images, shares = target.sum(dim=0), _shares_of_probabilities(p, target)
        misses, size = self.misses_and_size(*shares)
        present = images > 0
        weight = present.to(p.dtype) if self.class_weights is None else present * self.class_weights.to(p.dtype)
        # A size may be 0, or too small to be divided by twice: of an absent class, or where nothing is predicted and
        # only false positives count. 0/0 would put NaN into the gradient, though it is masked. A size that is NaN, of
        # logits that are, is kept.
        counts = present & ~(size <= torch.finfo(p.dtype).tiny ** 0.5)
        loss = torch.where(counts, misses / torch.where(counts, size, 1), 0) * weight
        if self.reduction == "none":
            return loss
        total = weight.sum()
        return loss.sum() if self.reduction == "sum" else loss.sum() / torch.where(total > 0, total, 1)


# Where p may round to 1, 1 - p is the sum of the others: what is missed there is not rounded to 0.


def _shares_of_labels(p: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fp = torch.where(is_label, 0, p)
    return torch.where(is_label, p, 0), fp, torch.where(is_label, fp.sum(dim=1, keepdim=True), 0)


def _shares_of_probabilities(p: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    is_top = p.argmax(dim=1, keepdim=True) == torch.arange(p.shape[1], device=p.device)
    not_p = torch.where(is_top, p.masked_fill(is_top, 0).sum(dim=1, keepdim=True), 1 - p)
    return p * target, p * (1 - target), not_p * target
