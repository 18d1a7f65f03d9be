"""A weighted sum of losses, such as cross-entropy plus dice."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losslab.losses.loss import Loss


class CompoundLoss(Loss):
    """sum_j weight_j loss_j(z, t).

    Cross-entropy gives dice the gradient that it lacks far from the solution; dice pulls towards overlap.

    Args:
        losses: two or more losses of losslab, each with reduction "mean" or "sum", each with its own class weights.
        weights: one number >= 0 for each; None for 1 each.
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if len(losses) < 2 or any(loss.reduction == "none" for loss in losses):
            raise ValueError(f"losses must be two or more with reduction 'mean' or 'sum', got {list(losses)}")
        if len(weights) != len(losses) or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"weights must be {len(losses)} finite numbers >= 0, one for each loss, got {weights}")
        self.losses = nn.ModuleList(losses)
        self.register_buffer("weights", torch.tensor([float(weight) for weight in weights]), persistent=False)

    def set_class_counts(self, counts: Tensor) -> None:
        super().set_class_counts(counts)
        for loss in self.losses:
            loss.set_class_counts(counts)  # type: ignore[operator]

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        parts = [loss(logits, target) for loss in self.losses]
        return (torch.stack(parts) * self.weights.to(logits.dtype)).sum()  # type: ignore[operator]
