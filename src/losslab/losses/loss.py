"""The base of losslab's losses: checks of a call, class weights, class frequencies, ignored images."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from losslab.losses.class_weighting import ClassWeighting

Reduction = Literal["none", "mean", "sum"]
ClassWeights = Sequence[float] | ClassWeighting | None

HOW_TO_GIVE_COUNTS = "call set_class_counts first (losslab's models do so before training)"


class Loss(nn.Module, ABC):
    """The base of losslab's losses. A subclass implements `compute`.

    A loss is called with logits (N, C), of any floating dtype, and with targets: labels, (N,) int64 in 0..C-1, or
    probabilities, (N, C) floating, each row summing to 1. Further dimensions may follow, as in a segmentation: logits
    (N, C, ...) with targets (N, ...) or (N, C, ...); each position then counts as an image. The loss is computed
    and returned in float32 or wider.

    Every call checks shapes and dtypes. Only eager calls on CPU check the values of targets; elsewhere that would wait
    for the device.

    Args:
        reduction: "mean", "sum" or "none", over images or over classes, see the subclass.
        class_weights: C weights >= 0; or InverseFrequency or EffectiveNumber, which compute them from class
            frequencies (`set_class_counts`); None: equal weights. A weight multiplies a loss, never a probability.
        ignore_index: images with this label are ignored; None ignores none. If all images of a batch are ignored, loss
            and gradient are 0 (torch's cross-entropy returns NaN).

    Raises:
        ValueError: an argument is out of its range; in a call, logits or targets have a wrong shape, dtype or range,
            or class weights have the wrong length or lack frequencies.
    """

    class_counts: Tensor | None
    class_weights: Tensor | None

    def __init__(
        self, reduction: Reduction = "mean", class_weights: ClassWeights = None, ignore_index: int | None = None
    ) -> None:
        super().__init__()
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        self._numbers: list[str] = []
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.weighting = class_weights if isinstance(class_weights, ClassWeighting) else None
        # None or (C,). A checkpoint holds the counts only: the weights follow from the arguments.
        self.register_buffer("class_counts", None)
        self.register_buffer("class_weights", _given_weights(class_weights), persistent=False)

    def add_number(self, name: str, value: float) -> None:
        """Hold a hyper-parameter as a buffer, () float32, of which a population has one value for each member."""
        self.register_buffer(name, torch.tensor(float(value)), persistent=False)
        self._numbers.append(name)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name).item():g}" for name in self._numbers)

    def set_class_counts(self, counts: Tensor) -> None:
        """Set the number of training images of each class, (C,) int64, all >= 1."""
        if counts.ndim != 1 or not bool((counts >= 1).all()):
            raise ValueError(f"class counts must be (C,) numbers >= 1, got {counts.tolist()}")
        device = self.class_counts.device if self.class_counts is not None else counts.device
        self.class_counts = counts.to(device)
        if self.weighting is not None:
            self.class_weights = self.weighting(counts).to(device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Before training the buffer is None, and torch would reject the checkpoint's key.
        counts = state_dict.get(f"{prefix}class_counts")
        if counts is not None:
            self.set_class_counts(counts)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def required_class_counts(self, num_classes: int) -> Tensor:
        """Return the class counts, (C,) int64.

        Raises:
            ValueError: no counts are set, or their number is not C.
        """
        if self.class_counts is None:
            raise ValueError(f"{type(self).__name__} needs the classes' frequencies: {HOW_TO_GIVE_COUNTS}")
        if len(self.class_counts) != num_classes:
            raise ValueError(f"class counts must be {num_classes} numbers, one a class, got {len(self.class_counts)}")
        return self.class_counts

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        """Return the loss, reduced as `reduction` says.

        Args:
            logits: (N, C) float32 or float64, N >= 1, C >= 2.
            target: (N,) int64 labels, or (N, C) probabilities in the dtype of the logits.
            kept: (N,) bool, False for ignored images, whose logits and label are set to 0; None if all are kept.
        """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Check the call and return the loss: a scalar, or one value per image or class for reduction="none"."""
        labels = check_call(logits, target)
        self.check_weights(logits.shape[1])
        kept = None
        if labels and self.ignore_index is not None:
            kept = target != self.ignore_index
            target = torch.where(kept, target, 0)
            kept = kept.flatten()  # (N,), as below (N, C) and (N,) or (N, C)
        check_values(logits, target)
        logits = _rows(logits).float() if logits.dtype in (torch.float16, torch.bfloat16) else _rows(logits)
        target = target.flatten() if labels else _rows(target).to(logits.dtype)
        if kept is not None:
            logits = torch.where(kept.unsqueeze(1), logits, 0)  # NaN in an ignored image is ignored, too
        # Under autocast, matrix products inside the loss would run in half precision.
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits, target, kept)

    def check_weights(self, num_classes: int) -> None:
        """Raise ValueError unless there is a class weight for each class, or none at all."""
        if self.class_weights is None:
            if self.weighting is not None:
                raise ValueError(f"class_weights={self.weighting} needs the classes' frequencies: {HOW_TO_GIVE_COUNTS}")
        elif len(self.class_weights) != num_classes:
            raise ValueError(f"class_weights must be {num_classes} numbers, one a class, got {len(self.class_weights)}")


def ignored_label(loss: Any) -> int | None:
    """Return the label whose images a loss leaves out, its `ignore_index`; None if it leaves out none.

    Args:
        loss: losslab's or torch's; a module that holds one of them; or a functools.partial with an `ignore_index`.
    """
    if isinstance(loss, functools.partial):
        return loss.keywords.get("ignore_index", ignored_label(loss.func))
    holds = isinstance(loss, nn.Module) and not hasattr(loss, "ignore_index")
    found = {part.ignore_index for part in (loss.modules() if holds else [loss]) if hasattr(part, "ignore_index")}
    label = found.pop() if len(found) == 1 else None
    return label if isinstance(label, int) else None


def check_call(logits: Tensor, target: Tensor) -> bool:
    """Return True if targets are labels, (N, ...) int64, False if they are probabilities, (N, C, ...) floating.

    Raises:
        ValueError: logits are not floating of shape (N, C, ...) with N >= 1 and C >= 2, or targets are neither.
    """
    if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[1] < 2 or logits.numel() < 1:
        raise ValueError(
            f"logits must be floating, of shape (N, C) or (N, C, ...) with N >= 1 and C >= 2, "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    label_shape = logits.shape[:1] + logits.shape[2:]
    labels = target.dtype == torch.int64 and target.shape == label_shape
    if not labels and not (target.is_floating_point() and target.shape == logits.shape):
        raise ValueError(
            f"target must be int64 labels of shape {tuple(label_shape)} or floating probabilities of shape "
            f"{tuple(logits.shape)}, got {target.dtype} of shape {tuple(target.shape)}"
        )
    return labels


def check_values(logits: Tensor, target: Tensor) -> None:
    """Check that labels are classes, and that probabilities are >= 0 and sum to 1; in eager calls on CPU only.

    Raises:
        ValueError: a target is out of its range.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling() or _in_transform(logits, target):
        return
    target, num_classes = target.detach(), logits.shape[1]
    low, high = (float(bound) for bound in target.aminmax())
    if target.dtype == torch.int64:
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"target must be in 0..{num_classes - 1}, got {low:.0f}..{high:.0f} (give a label of images to ignore "
                "as ignore_index)"
            )
        return
    sums = target.sum(dim=1)
    if not low >= 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2 if sums.element_size() == 2 else 1e-4):
        raise ValueError(
            f"target probabilities must be >= 0 with rows that sum to 1, got a smallest value of {low:g} and sums "
            f"of {float(sums.min()):g}..{float(sums.max()):g}"
        )


def _in_transform(*tensors: Tensor) -> bool:
    """Return whether torch.func (vmap, grad) is tracing the tensors: their values cannot be read then."""
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)


def _given_weights(class_weights: ClassWeights) -> Tensor | None:
    if class_weights is None or isinstance(class_weights, ClassWeighting):
        return None
    try:
        weights = torch.tensor([float(weight) for weight in class_weights])
    except (TypeError, ValueError) as error:  # a string, a single number, a class instead of its object
        raise ValueError(
            f"class_weights must be numbers, InverseFrequency(), EffectiveNumber(beta) or None, got {class_weights!r}"
        ) from error
    if not len(weights) or not bool((weights >= 0).all()) or not bool(weights.isfinite().all()):
        raise ValueError(f"class_weights must be numbers >= 0, one for each class, got {class_weights}")
    return weights


def _rows(values: Tensor) -> Tensor:
    """Return (N, C, ...) as rows, (N', C)."""
    return values if values.ndim == 2 else values.movedim(1, -1).flatten(0, -2)
