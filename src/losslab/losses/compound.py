"""A weighted sum of losses, such as cross-entropy plus dice."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losslab.losses.loss import Loss


class CompoundLoss(Loss):
    """sum_j weight_j loss_j(z, t).

    Gradient, range and limits are the weighted sums of the parts'. Cross-entropy gives dice the gradient that it lacks
    far from the solution; dice raises overlap: recall of hard classes at nearly cross-entropy's confidence
    (Taghanaki et al. 2019, arXiv:1805.02798, equation 3).

    Args:
        losses: two or more of losslab's losses, with reduction "mean" or "sum" and the same ignore_index; each may have
            its own class weights.
        weights: one number >= 0 for each loss; None: all 1.
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if len(losses) < 2 or any(not isinstance(loss, Loss) or loss.reduction == "none" for loss in losses):
            raise ValueError(
                f"losses must be 2 or more of losslab's, with reduction 'mean' or 'sum', got {list(losses)}"
            )
        if len({loss.ignore_index for loss in losses}) > 1:
            raise ValueError(f"losses must have one ignore_index, got {[loss.ignore_index for loss in losses]}")
        if len(weights) != len(losses) or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"weights must be {len(losses)} finite numbers >= 0, one for each loss, got {weights}")
        super().__init__(ignore_index=losses[0].ignore_index)
        self.losses = nn.ModuleList(losses)
        self.register_buffer("weights", torch.tensor([float(weight) for weight in weights]), persistent=False)

    def set_class_counts(self, counts: Tensor) -> None:
        super().set_class_counts(counts)
        for loss in self.losses:
            loss.set_class_counts(counts)  # type: ignore[operator]

    def compute(self, logits: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        parts = [loss.compute(logits, target, kept) for loss in self.losses]  # type: ignore[operator]
        return (torch.stack(parts) * self.weights.to(logits.dtype)).sum()  # type: ignore[operator]

    def check_weights(self, num_classes: int) -> None:
        for loss in self.losses:
            loss.check_weights(num_classes)  # type: ignore[operator]
