"""What all of losslab's losses share: the checks of a call, class weights, and the classes' frequencies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Reduction = Literal["none", "mean", "sum"]
ClassWeights = Sequence[float] | Literal["inverse_frequency"] | None


class Loss(nn.Module, ABC):
    """The base of losslab's losses. A subclass implements `compute`.

    Called with logits (N, C), of any floating dtype, and with targets that are labels, (N,) int64 in 0..C-1, or
    probabilities, (N, C) floating, each row summing to 1. It computes in float32 or wider and returns that dtype.

    Shapes and dtypes are checked in every call. Values of targets are checked in eager calls on CPU; elsewhere that
    would wait for the device.

    Args:
        reduction: "mean", "sum" or "none"; each subclass says of what.
        class_weights: C weights >= 0; or "inverse_frequency": N_train / (C * n_c), which needs the classes'
            frequencies (`set_class_counts`); or None for equal weights. A weight multiplies a loss; it never enters
            a probability.

    Raises:
        ValueError: an argument out of its range; in a call, logits or targets of a wrong shape, dtype or range, or
            class weights of the wrong length or without frequencies.
    """

    class_counts: Tensor | None
    class_weights: Tensor | None

    def __init__(self, reduction: Reduction = "mean", class_weights: ClassWeights = None) -> None:
        super().__init__()
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction
        if isinstance(class_weights, str) and class_weights != "inverse_frequency":
            raise ValueError(f"class_weights must be numbers, 'inverse_frequency' or None, got {class_weights!r}")
        self.weighting = class_weights if class_weights is None or isinstance(class_weights, str) else "given"
        # Both are None or (C,) tensors. Counts are kept in the checkpoint, weights follow from the arguments.
        self.register_buffer("class_counts", None)
        self.register_buffer("class_weights", None, persistent=False)
        if class_weights is not None and not isinstance(class_weights, str):
            weights = torch.tensor([float(weight) for weight in class_weights])
            if not len(weights) or not bool((weights >= 0).all()) or not bool(weights.isfinite().all()):
                raise ValueError(f"class_weights must be numbers >= 0, one for each class, got {class_weights}")
            self.class_weights = weights

    def set_class_counts(self, counts: Tensor) -> None:
        """Tell the loss how many training images each class has: (C,) int64, all >= 1."""
        if counts.ndim != 1 or not bool((counts >= 1).all()):
            raise ValueError(f"class counts must be (C,) numbers >= 1, got {counts.tolist()}")
        device = self.class_counts.device if self.class_counts is not None else counts.device
        self.class_counts = counts.to(device)
        if self.weighting == "inverse_frequency":
            self.class_weights = self.class_counts.sum() / (len(counts) * self.class_counts.float())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Before training a loss has no counts and so no such key: a checkpoint brings them, and weights follow.
        counts = state_dict.get(f"{prefix}class_counts")
        if counts is not None:
            self.set_class_counts(counts)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def required_class_counts(self, num_classes: int) -> Tensor:
        """The class counts, (C,) int64, for a loss that cannot do without.

        Raises:
            ValueError: they are missing, or are not C.
        """
        if self.class_counts is None:
            raise ValueError(
                f"{type(self).__name__} needs the classes' frequencies: call set_class_counts first "
                "(losslab's models do so before training)"
            )
        if len(self.class_counts) != num_classes:
            raise ValueError(f"class counts must be {num_classes} numbers, one a class, got {len(self.class_counts)}")
        return self.class_counts

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss itself.

        Args:
            logits: (N, C) float32 or float64, N >= 1, C >= 2.
            target: (N,) int64 labels, or (N, C) probabilities in the dtype of the logits.
        """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Check, widen and compute: a scalar, or what the subclass says for reduction="none"."""
        if not logits.is_floating_point() or logits.ndim != 2 or logits.shape[1] < 2 or logits.shape[0] < 1:
            raise ValueError(
                f"logits must be floating, of shape (N, C) with N >= 1 and C >= 2, "
                f"got {logits.dtype} of shape {tuple(logits.shape)}"
            )
        labels = target.dtype == torch.int64 and target.shape == logits.shape[:1]
        if not labels and not (target.is_floating_point() and target.shape == logits.shape):
            raise ValueError(
                f"target must be int64 labels of shape {tuple(logits.shape[:1])} or floating probabilities of shape "
                f"{tuple(logits.shape)}, got {target.dtype} of shape {tuple(target.shape)}"
            )
        if self.weighting is not None:
            self._check_weights(logits.shape[1])
        if logits.device.type == "cpu" and not torch.compiler.is_compiling() and not _in_transform(logits, target):
            _check_values(target, logits.shape[1], labels)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        # Under autocast, matrix products and the like would fall back to half precision inside the loss.
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits, target if labels else target.to(logits.dtype))

    def _check_weights(self, num_classes: int) -> None:
        if self.class_weights is None:
            raise ValueError(
                f"class_weights={self.weighting!r} needs the classes' frequencies: call set_class_counts first "
                "(losslab's models do so before training)"
            )
        if len(self.class_weights) != num_classes:
            raise ValueError(f"class_weights must be {num_classes} numbers, one a class, got {len(self.class_weights)}")


def _in_transform(*tensors: Tensor) -> bool:
    """Whether torch.func (vmap, grad) is tracing: then values are not there to be looked at."""
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)


def _check_values(target: Tensor, num_classes: int, labels: bool) -> None:
    low, high = (float(bound) for bound in target.detach().aminmax())
    if labels and (low < 0 or high >= num_classes):
        raise ValueError(f"target must be in 0..{num_classes - 1}, got {low:.0f}..{high:.0f}")
    if not labels:
        sums = target.detach().sum(dim=1)
        if low < 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2 if sums.element_size() == 2 else 1e-4):
            raise ValueError(
                f"target probabilities must be >= 0 with rows that sum to 1, got a smallest value of {low:g} and sums "
                f"of {float(sums.min()):g}..{float(sums.max()):g}"
            )
