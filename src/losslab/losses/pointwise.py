"""The base of losses that are a mean over images: weights, smoothing, probability targets and reduction."""

from abc import abstractmethod

import torch
from torch import Tensor

from losslab.losses.loss import ClassWeights, Loss, Reduction


class PointwiseLoss(Loss):
    """A loss l(z, t) of one image. A subclass implements `per_image` and, for smoothing, `per_class_as_label`.

    A probability target y is an expectation over labels, exactly: l(z, y) = sum_k y_k l(z, k). So label smoothing,
    soft labels and mixtures have the mean gradient of labels drawn from y.

    Args:
        reduction: "mean", the weighted mean sum_i l_i / sum_i w_i, as in torch, and 0 if the weights in the batch sum
            to 0; "sum", sum_i l_i; "none", l_i, in the shape of labels, (N,) or (N, ...). Here w_i = sum_k y_ik w_k,
            and l_i includes the class weights; ignored images have w_i = l_i = 0.
        class_weights: see Loss.
        label_smoothing: e in [0, 1): the label's share of the target is 1 - e + e/C, any other class's e/C
            (Szegedy et al. 2016, arXiv:1512.00567, section 7).
        ignore_index: see Loss.
    """

    label_smoothing: Tensor

    def __init__(
        self,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, class_weights, ignore_index)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.smooths = label_smoothing > 0  # a Python bool: reading the buffer would wait for the device
        self.register_buffer("label_smoothing", torch.tensor(float(label_smoothing)), persistent=False)

    @abstractmethod
    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return l(z, t) of each image, (N,), of logits (N, C) and labels (N,)."""

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        """Return l(z, k) for every class k, (N, C). A loss without it takes labels only, and no smoothing."""
        raise ValueError(
            f"{type(self).__name__} takes integer labels only: probability targets and label_smoothing need "
            "its per_class_as_label(logits), the loss (N, C) that each class would have as the label"
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(logits, target)
        return loss.reshape(logits.shape[:1] + logits.shape[2:]) if self.reduction == "none" else loss

    def compute(self, logits: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        # weights: (C,); every: (N, C); image_weight, loss: (N,)
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        every = None
        if self.smooths or target.ndim == 2:
            every = self.per_class_as_label(logits) if weights is None else self.per_class_as_label(logits) * weights
        if target.ndim == 1:
            image_weight = None if weights is None else weights[target]
            loss = self.per_image(logits, target)
            loss = loss if image_weight is None else loss * image_weight
        else:
            image_weight = None if weights is None else target @ weights
            loss = (target * every).sum(dim=1)  # type: ignore[operator]
        if self.smooths:
            share = self.label_smoothing.to(logits.dtype)
            loss = (1 - share) * loss + share * every.mean(dim=1)  # type: ignore[union-attr]
        if kept is not None:
            loss = torch.where(kept, loss, 0)
            image_weight = kept.to(loss.dtype) if image_weight is None else kept * image_weight
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return loss.sum()
        if image_weight is None:
            return loss.mean()
        total = image_weight.sum()
        return loss.sum() / torch.where(total > 0, total, 1)
