"""Precision and recall of each class, their means, accuracy and calibration, from logits and labels."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_stat_scores

ECE_BINS = 15
"""Bins of equal width for the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""


LOWER_IS_BETTER = ("loss", "ece")
"""Metrics of which less is better, by their keys without the split; of all others, more is better."""


SHARES = ("acc", "acc_running", "ece", "f1", "precision", "recall")
"""Metrics that are shares of images, by the first word of their keys without the split; a loss has its own units."""


def better_direction(key: str) -> Literal["maximize", "minimize"]:
    """Return whether a metric, such as "val/loss" or "recall/3", is to be maximised or minimised."""
    return "minimize" if (key.partition("/")[2] or key) in LOWER_IS_BETTER else "maximize"


def is_share(key: str) -> bool:
    """Return whether a metric, such as "val/ece" or "test/recall/3", is a share in [0, 1], to be shown in percent."""
    return key.split("/")[1] in SHARES


def classification_metrics(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Compare the most probable class with the labels, over a whole split, for one prediction of it or for many.

    A class that is never predicted has precision 0; a class without an example has recall 0; either has F1 0. The
    macro means are over the classes that occur among the labels or the predictions, as scikit-learn's are.

    Args:
        logits: (..., N, C) floating, N >= 1.
        labels: (..., N) int64 in 0..C-1, or (N,) for all predictions.
        class_names: C names, in the order of the labels.

    Returns:
        Tensors (...) in [0, 1], by the keys of `metric_keys`.

    Raises:
        ValueError: the largest logit of an image is NaN or infinite. Others may be -inf, as those of masked classes.
    """
    top, predicted = logits.max(dim=-1)  # (..., N) each
    if not bool((finite := top.isfinite()).all()):
        at = finite.logical_not().nonzero()[0].tolist()
        where = ", ".join(map(str, at))
        raise ValueError(f"logits must be finite, or -inf for masked classes, got {logits[*at].tolist()} at {where}")
    labels, classes = labels.expand_as(predicted), len(class_names)
    probabilities = logits.softmax(dim=-1)
    # torchmetrics would put a confidence of exactly 1 into a bin of its own instead of the last one.
    probabilities = probabilities.clamp(max=1 - torch.finfo(probabilities.dtype).eps)
    # Its metrics count the images once each; these are its counts, and its ratios of them, bit for bit.
    counts = _of_each(multiclass_stat_scores, predicted, labels, classes, average="none")  # (..., C, 5)
    hits, false_positives, _, _, is_class = counts.unbind(dim=-1)  # (..., C) each
    called = hits + false_positives
    precision, recall = _ratio(hits, called), _ratio(hits, is_class)
    present = is_class + called > 0
    metrics = {
        "acc": hits.sum(dim=-1) / is_class.sum(dim=-1),
        "ece": _of_each(multiclass_calibration_error, probabilities, labels, classes, n_bins=ECE_BINS, norm="l1"),
        "precision/macro": _macro(precision, present),
        "recall/macro": _macro(recall, present),
        "f1/macro": _macro(_ratio(2 * hits, is_class + called), present),
    }
    metrics |= {f"precision/{name}": values for name, values in zip(class_names, precision.unbind(-1), strict=True)}
    metrics |= {f"recall/{name}": values for name, values in zip(class_names, recall.unbind(-1), strict=True)}
    return metrics


def _of_each(metric: Callable[..., Tensor], predictions: Tensor, labels: Tensor, classes: int, **rest: Any) -> Tensor:
    """Return torchmetrics' `metric` of each prediction of a split, (...) or (..., C, 5); labels are (..., N)."""
    own = predictions.flatten(0, labels.ndim - 2) if labels.ndim > 1 else predictions.unsqueeze(0)
    pairs = zip(own, labels.reshape(-1, labels.shape[-1]), strict=True)
    found = torch.stack([metric(*pair, classes, validate_args=False, **rest) for pair in pairs])
    return found.unflatten(0, labels.shape[:-1]) if labels.ndim > 1 else found[0]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, 0 where the latter is 0."""
    return torch.where(whole > 0, part / whole, 0.0)


def _macro(values: Tensor, present: Tensor) -> Tensor:
    """Return the mean (...) of the values (..., C) of the classes that are `present`; others are 0."""
    return (values / present.sum(dim=-1, keepdim=True)).sum(dim=-1)


def metric_keys(class_names: Sequence[str]) -> list[str]:
    """Return the keys of `classification_metrics`, without the split's prefix ("val/" or "test/")."""
    per_class = [f"{metric}/{name}" for metric in ("precision", "recall") for name in class_names]
    return ["acc", "ece", "precision/macro", "recall/macro", "f1/macro", *per_class]
