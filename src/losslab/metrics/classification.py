"""Precision and recall of each class, their means, accuracy and calibration, from logits and labels."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

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
    """Compare the most probable class with the labels, over a whole split.

    A class that is never predicted has precision 0; a class without an example has recall 0; either has F1 0. The
    macro means are over the classes that occur among the labels or the predictions, as scikit-learn's are.

    Args:
        logits: (N, C) floating, N >= 1.
        labels: (N,) int64 in 0..C-1.
        class_names: C names, in the order of the labels.

    Returns:
        Tensors () in [0, 1], by the keys of `metric_keys`.

    Raises:
        ValueError: the largest logit of an image is NaN or infinite. Others may be -inf, as those of masked classes.
    """
    finite = logits.amax(dim=1).isfinite()  # (N,)
    if not bool(finite.all()):
        image = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"logits must be finite, or -inf for masked classes, got {logits[image].tolist()} at {image}")
    classes = len(class_names)
    probabilities = logits.softmax(dim=1)
    # torchmetrics would put a confidence of exactly 1 into a bin of its own instead of the last one.
    probabilities = probabilities.clamp(max=1 - torch.finfo(probabilities.dtype).eps)
    predicted = logits.argmax(dim=1)  # (N,), once: torchmetrics would compute it in every function
    precision = multiclass_precision(predicted, labels, classes, average="none", validate_args=False)  # (C,)
    recall = multiclass_recall(predicted, labels, classes, average="none", validate_args=False)  # (C,)
    metrics = {
        "acc": multiclass_accuracy(predicted, labels, classes, average="micro", validate_args=False),
        "ece": multiclass_calibration_error(probabilities, labels, classes, ECE_BINS, norm="l1", validate_args=False),
        "precision/macro": multiclass_precision(predicted, labels, classes, average="macro", validate_args=False),
        "recall/macro": multiclass_recall(predicted, labels, classes, average="macro", validate_args=False),
        "f1/macro": multiclass_f1_score(predicted, labels, classes, average="macro", validate_args=False),
    }
    metrics |= {f"precision/{name}": precision[c] for c, name in enumerate(class_names)}
    metrics |= {f"recall/{name}": recall[c] for c, name in enumerate(class_names)}
    return metrics


def metric_keys(class_names: Sequence[str]) -> list[str]:
    """Return the keys of `classification_metrics`, without the split's prefix ("val/" or "test/")."""
    per_class = [f"{metric}/{name}" for metric in ("precision", "recall") for name in class_names]
    return ["acc", "ece", "precision/macro", "recall/macro", "f1/macro", *per_class]
