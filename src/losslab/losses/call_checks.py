"""What a loss is called with: shapes and dtypes always, values where looking at them costs nothing."""

import torch
from torch import Tensor


def check_call(logits: Tensor, target: Tensor) -> bool:
    """Whether targets are labels, (N, ...) int64, rather than probabilities, (N, C, ...) floating.

    Raises:
        ValueError: logits are not floating of shape (N, C, ...) with N >= 1 and C >= 2, or targets fit neither.
    """
    if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[1] < 2 or logits.numel() < 1:
        raise ValueError(
            f"logits must be floating, of shape (N, C) or (N, C, ...) with N >= 1 and C >= 2, "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    of_labels = logits.shape[:1] + logits.shape[2:]
    labels = target.dtype == torch.int64 and target.shape == of_labels
    if not labels and not (target.is_floating_point() and target.shape == logits.shape):
        raise ValueError(
            f"target must be int64 labels of shape {tuple(of_labels)} or floating probabilities of shape "
            f"{tuple(logits.shape)}, got {target.dtype} of shape {tuple(target.shape)}"
        )
    return labels


def check_values(logits: Tensor, target: Tensor) -> None:
    """Labels are classes, probabilities are >= 0 and sum to 1. Looked at in eager calls on CPU only.

    Raises:
        ValueError: they are not.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling() or _in_transform(logits, target):
        return
    target, num_classes = target.detach(), logits.shape[1]
    low, high = (float(bound) for bound in target.aminmax())
    if target.dtype == torch.int64:
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"target must be in 0..{num_classes - 1}, got {low:.0f}..{high:.0f} (a label for images to leave out "
                "is given as ignore_index)"
            )
        return
    sums = target.sum(dim=1)
    if not low >= 0 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2 if sums.element_size() == 2 else 1e-4):
        raise ValueError(
            f"target probabilities must be >= 0 with rows that sum to 1, got a smallest value of {low:g} and sums "
            f"of {float(sums.min()):g}..{float(sums.max()):g}"
        )


def _in_transform(*tensors: Tensor) -> bool:
    """Whether torch.func (vmap, grad) is tracing: then values are not there to be looked at."""
    return any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)
