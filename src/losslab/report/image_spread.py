"""How far a confirmation's differences depend on the test images: a bootstrap over the images."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from losslab.report.records import TEST_PREDICTIONS
from losslab.run import read_predictions
from losslab.study import Result, SettingResults, class_groups

REDRAWN = 200
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
    measured = {setting.label: _means_of_draws(folder, setting, counts) for setting in settings}
    images, reference = measured.pop(baseline, (b"", {}))
    return {
        (label, key): float((means[name] - reference[name]).std(ddof=1))
        for label, (of_images, means) in measured.items()
        for key in keys
        if of_images == images and (name := key.partition("/")[2]) in means and name in reference
    }


def _means_of_draws(
    folder: Path, setting: SettingResults, counts: Mapping[tuple[str, int], dict[str, int]]
) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the labels of the images, and the mean over the seeds of each metric in each draw, (B,); {} without any.

    Args:
        folder: as in `image_spread`.
        setting: one of its settings.
        counts: (setting's hash, seed) -> training images by class.
    """
    found: list[dict[str, np.ndarray]] = []
    images = set()
    for seed, run in zip(setting.seeds, setting.runs, strict=True):
        try:
            logits, labels = read_predictions(folder / run / TEST_PREDICTIONS)
        except (OSError, ValueError):
            return b"", {}
        images.add(labels.tobytes())
        groups = class_groups(counts.get((setting.setting_hash, seed), {}))
        predicted = logits.argmax(axis=1)  # (N,)
        found.append(metrics_of_draws(labels, predicted, image_draws(len(labels)), setting.classes, groups))
    if len(images) != 1:
        return b"", {}
    common = set.intersection(*(set(values) for values in found))
    return images.pop(), {name: np.mean([values[name] for values in found], axis=0) for name in common}


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
    count, images = len(classes), np.flatnonzero(labels >= 0)
    cells = labels[images] * count + predicted[images]
    one_hot = sparse.csr_array((np.ones(len(images), np.float32), (cells, images)), (count * count, len(labels)))
    matrices = (one_hot @ draws).reshape(count, count, -1).astype(float)  # (C, C, B): is, called
    right, is_class, called = np.einsum("ccb->cb", matrices), matrices.sum(axis=1), matrices.sum(axis=0)  # (C, B) each
    present = is_class + called > 0
    by_class = {
        "precision": right / np.maximum(called, 1),
        "recall": right / np.maximum(is_class, 1),
        "f1": 2 * right / np.maximum(is_class + called, 1),
    }
    found = {"acc": right.sum(axis=0) / np.maximum(is_class.sum(axis=0), 1)}
    for metric, values in by_class.items():
        found[f"{metric}/macro"] = values.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        if metric != "f1":
            found |= {f"{metric}/{name}": values[c] for c, name in enumerate(classes)}
            at = {group: [classes.index(name) for name in names] for group, names in groups.items()}
            found |= {f"{metric}/{group}": values[rows].mean(axis=0) for group, rows in at.items()}
    return found
