"""How far a confirmation's differences depend on the test images: a bootstrap over the images."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from losslab.report.records import Predictions, setting_predictions
from losslab.study import Result, SettingResults, class_groups

REDRAWN = 1000
"""How often the test images are drawn again."""


def image_spread(
    folder: Path, settings: Sequence[SettingResults], results: Sequence[Result], baseline: str, keys: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Measure how far each mean difference from the baseline varies with the test images.

    The N test images are drawn again, N with replacement, `REDRAWN` times from a fixed seed, the same draw for both
    settings and all seeds (Efron & Tibshirani 1993, chapter 8); the trained networks stay as they are. The interval
    over the seeds does not contain this spread.

    Args:
        folder: runs/<study>/confirm, in which the runs' paths start.
        settings: those of the confirmation.
        results: its test results, of which only `setting_hash`, `seed` and `class_counts` are used.
        baseline: the label of the setting to compare with.
        keys: the metrics, such as "test/recall/tail".

    Returns:
        (label, key) -> the standard deviation of the mean difference over the draws. Accuracy, precision, recall and F1
        are there, of a class, a group or macro, if the test predictions of both settings are there, of the same images.
    """
    counts = {(r["setting_hash"], r["seed"]): r.get("class_counts", {}) for r in results}
    given = {setting.label: setting_predictions(folder, setting, of_test=True) for setting in settings}
    reference = given.get(baseline)
    means: dict[str, dict[str, np.ndarray]] = {}
    for setting in settings:
        predictions = given[setting.label]
        if predictions is None or reference is None or not predictions.has_images_of(reference):
            continue
        if len(predictions.logits) == len(setting.seeds):
            groups = [class_groups(counts.get((setting.setting_hash, seed), {})) for seed in setting.seeds]
            means[setting.label] = _means_of_draws(predictions, setting.classes, groups)
    of_baseline = means.pop(baseline, {})
    return {
        (label, key): float((own[name] - of_baseline[name]).std(ddof=1))
        for label, own in means.items()
        for key in keys
        if (name := key.partition("/")[2]) in own and name in of_baseline
    }


def _means_of_draws(
    predictions: Predictions, classes: Sequence[str], groups: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, np.ndarray]:
    """Return the mean over the seeds of each metric in each draw, (B,); `groups` are those of each seed."""
    labels, draws = predictions.labels, image_draws(len(predictions.labels))
    found = [
        metrics_of_draws(labels, logits.argmax(axis=1), draws, classes, of_seed)
        for logits, of_seed in zip(predictions.logits, groups, strict=True)
    ]
    return {name: np.mean([values[name] for values in found], axis=0) for name in set.intersection(*map(set, found))}


@functools.lru_cache(maxsize=1)
def image_draws(images: int) -> np.ndarray:
    """Return how often each image is in each draw, (N, B) float32; a column sums to N."""
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=REDRAWN)
    return np.ascontiguousarray(drawn.T, dtype=np.float32)


def metrics_of_draws(
    labels: np.ndarray,
    predicted: np.ndarray,
    draws: np.ndarray,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, np.ndarray]:
    """Return accuracy, precision, recall and F1 of weighted images; undefined cases as in `classification_metrics`.

    Args:
        labels: (N,) int64; images with the label -1 do not count.
        predicted: (N,) int64 in 0..C-1.
        draws: weights of the images, (N, B).
        classes: C names.
        groups: name of a group -> names of its classes.

    Returns:
        "acc", "f1/macro", and "precision/..." and "recall/..." of macro, the groups and the classes -> (B,).
    """

    def count(by: np.ndarray, images: np.ndarray) -> np.ndarray:
        one_hot = (np.ones(len(images), np.float32), (by[images], images))
        counts: np.ndarray = (sparse.csr_array(one_hot, (len(classes), len(labels))) @ draws).astype(float)
        return counts

    images = np.flatnonzero(labels >= 0)
    is_class, called = count(labels, images), count(predicted, images)  # (C, B) each
    right = count(labels, np.flatnonzero((labels >= 0) & (labels == predicted)))  # (C, B)
    present = is_class + called > 0
    by_class = {
        "precision": right / np.maximum(called, 1),
        "recall": right / np.maximum(is_class, 1),
        "f1": 2 * right / np.maximum(is_class + called, 1),
    }
    at = {group: [classes.index(name) for name in names] for group, names in groups.items()}
    found = {"acc": right.sum(axis=0) / np.maximum(is_class.sum(axis=0), 1)}
    for metric, values in by_class.items():
        found[f"{metric}/macro"] = values.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        if metric != "f1":
            found |= {f"{metric}/{name}": values[c] for c, name in enumerate(classes)}
            found |= {f"{metric}/{group}": values[rows].mean(axis=0) for group, rows in at.items()}
    return found
