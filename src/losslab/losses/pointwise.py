"""Losses that are a mean over images: weights, smoothing, probability targets and reduction, once for all of them."""

from abc import abstractmethod

from torch import Tensor

from losslab.losses.loss import ClassWeights, Loss, Reduction


class PointwiseLoss(Loss):
    """A loss l(z, t) of one image at a time. A subclass says what it is for a label and for every class at once.

    A probability target y is an expectation over labels, l(z, y) = sum_k y_k l(z, k), exactly: so label smoothing,
    soft labels and mixtures have the mean gradient of labels drawn from y.

    Args:
        reduction: "mean", the weighted mean sum_i l_i / sum_i w_i, as in torch; "sum", sum_i l_i; "none", l_i, (N,).
            Here w_i = sum_k y_ik w_k, and l_i already holds the class weights.
        class_weights: see Loss.
        label_smoothing: e in [0, 1): the label's share of the target is 1 - e + e/C, any other class's e/C
            (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """

    def __init__(
        self, reduction: Reduction = "mean", class_weights: ClassWeights = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction, class_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    @abstractmethod
    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        """l(z, t): from logits (N, C) and labels (N,), the loss of each image, (N,)."""

    @abstractmethod
    def of_every_class(self, logits: Tensor) -> Tensor:
        """l(z, k) for every class k: (N, C)."""

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        weights, smoothing = self.class_weights, self.label_smoothing
        if weights is not None:
            weights = weights.to(logits.dtype)
        if target.ndim == 1:
            image_weight = None if weights is None else weights[target]
            loss = self.of_label(logits, target)
            if image_weight is not None:
                loss = loss * image_weight
        else:
            image_weight = None if weights is None else target @ weights
            loss = (target * self._weighted_classes(logits, weights)).sum(dim=1)
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * self._weighted_classes(logits, weights).mean(dim=1)
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return loss.sum()
        return loss.mean() if image_weight is None else loss.sum() / image_weight.sum()

    def _weighted_classes(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        every = self.of_every_class(logits)
        return every if weights is None else every * weights
