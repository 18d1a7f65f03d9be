"""A study's results: one file for each setting and seed, written exactly once; grouped by setting and by class."""

import errno
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from losslab.metrics import is_share
from losslab.run import read_record

Result = dict[str, Any]
"""setting (arm, values), label, setting_hash, seed, metrics (by key, after the last epoch), data_name, seconds, ..."""

NEEDED = {"label", "order", "seed", "metrics"}
"""Keys without which a file does not count as a result."""

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system without hard links."""

GROUPS = ("head", "middle", "tail")
"""Groups of classes by frequency; see `class_groups`."""


def result_path(study_folder: Path, setting_hash: str, seed: int) -> Path:
    """Return results/<setting's hash>/<seed>.json in the study's folder."""
    return study_folder / "results" / setting_hash / f"{seed}.json"


def read_result(path: Path) -> Result | None:
    """Return a result; None if there is no file, or it is not whole."""
    content = read_record(path)
    return content if content is not None and content.keys() >= NEEDED else None


def write_result(path: Path, result: Result) -> bool:
    """Write a result unless there is one.

    The file is written whole under another name and then linked, which fails if the name is taken.

    Returns:
        True if this call wrote the result; False if there was one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staging.open("w") as file:
            json.dump(result, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(staging, path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            with path.open("x") as file:  # created, then filled; a half-written result counts as none
                file.write(staging.read_text())
    except FileExistsError:
        return False
    finally:
        staging.unlink(missing_ok=True)
    return True


def count_results(study_folder: Path) -> int:
    """Return the number of a study's result files, without reading them; one that is not whole counts, too."""
    return sum(1 for _ in study_folder.glob("results/*/*.json"))


def read_results(study_folder: Path) -> list[Result]:
    """Return all whole results of a study, ordered by setting and seed."""
    found = (read_result(path) for path in sorted(study_folder.glob("results/*/*.json")))
    return sorted((r for r in found if r is not None), key=lambda r: (r["order"], r["label"], r["seed"]))


@dataclass
class SettingResults:
    """All results of one setting.

    `values[key]`, `runs` (run folders) and `choices[path]`, what each seed's tuning chose, have one entry a seed, in
    the order of `seeds`; `choices` is {} where no seed tunes. `classes` are the names whose metrics every setting of
    the study has.
    """

    label: str
    arm: str
    varied: dict[str, Any]
    setting_hash: str
    seeds: list[int]
    values: dict[str, list[float]]
    classes: list[str]
    runs: list[str]
    choices: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median_choices(self) -> dict[str, float]:
        """The median of what the seeds chose, by path; of an even number of seeds the lower one of the middle two."""
        return {path: statistics.median_low(values) for path, values in self.choices.items()}

    def mean_sd(self, key: str) -> tuple[float, float]:
        """Return mean and sample standard deviation over the seeds; the latter is NaN for one seed."""
        numbers = np.asarray(self.values[key])
        return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")


def group_by_setting(results: Sequence[Result]) -> list[SettingResults]:
    """Return the settings in the order of the results."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["setting_hash"], []).append(result)
    settings = [_setting(group) for group in groups.values()]
    labels = Counter(setting.label for setting in settings)
    # Restored results hold means only, so per-class tables show the classes common to all settings.
    common = set.intersection(*(set(setting.classes) for setting in settings)) if settings else set()
    for setting in settings:
        setting.classes = [name for name in setting.classes if name in common]
        if labels[setting.label] > 1:  # numbers in labels are rounded: two settings of a search may look alike
            setting.label += f" ({setting.setting_hash[:4]})"
    return settings


def _setting(group: list[Result]) -> SettingResults:
    first = group[0]
    measured = [with_group_metrics(result["metrics"], result.get("class_counts", {})) for result in group]
    keys = [key for key in measured[0] if all(key in metrics for metrics in measured)]
    return SettingResults(
        label=first["label"],
        arm=first["setting"]["arm"],
        varied=first["setting"]["values"],
        setting_hash=first["setting_hash"],
        seeds=[result["seed"] for result in group],
        values={key: [metrics[key] for metrics in measured] for key in keys},
        classes=[  # without the groups of classes, whose metrics `with_group_metrics` added
            key.removeprefix("val/recall/")
            for key in keys
            if key.startswith("val/recall/") and key in first["metrics"] and key != "val/recall/macro"
        ],
        runs=[result.get("run", "") for result in group],
        choices={path: [result["tuned"][path] for result in group] for path in first.get("tuned", {})},
    )


def setting_label(arm: str, values: dict[str, Any], several_arms: bool) -> str:
    """Return a name such as "gamma=2", with the arm in front if the study has several, or if nothing else is varied."""
    names = short_names(values)
    parts = [arm] if several_arms or not values else []
    for path, value in values.items():
        parts.append(f"{names[path]}={value:.4g}" if isinstance(value, float) else f"{names[path]}={value}")
    return " ".join(parts)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the last word of each path, or the whole path where two end alike."""
    words = {path: path.rsplit(".", 1)[-1] for path in paths}
    count = Counter(words.values())
    return {path: word if count[word] == 1 else path for path, word in words.items()}


def format_mean(key: str, mean: float, sd: float) -> str:
    """Format a metric's mean and sd: a share in percent, a loss in its own units; a NaN sd is left out."""
    parts = (f"{100 * mean:.2f}", f"{100 * sd:.2f}") if is_share(key) else (f"{mean:.4g}", f"{sd:.2g}")
    return parts[0] if np.isnan(sd) else "±".join(parts)


def class_groups(class_counts: dict[str, int]) -> dict[str, list[str]]:
    """Split the classes by frequency: the third with the most images, the third with the fewest, and the others.

    Args:
        class_counts: training images by class name; two classes or more.

    Returns:
        Class names by group, without empty groups; 10 classes give 3, 4 and 3. Empty if the largest class has less than
        twice the images of the smallest, or if a class has a group's name.
    """
    if not class_counts or max(class_counts.values()) < 2 * min(class_counts.values()) or {*GROUPS} & {*class_counts}:
        return {}
    ordered = sorted(class_counts, key=lambda name: -class_counts[name])
    third = max(1, len(ordered) // 3)
    parts = (ordered[:third], ordered[third:-third], ordered[-third:])
    return {group: part for group, part in zip(GROUPS, parts, strict=True) if part}


def group_keys(class_counts: dict[str, int]) -> list[str]:
    """Return the keys that `with_group_metrics` adds, without the split's prefix."""
    return [f"{metric}/{group}" for metric in ("precision", "recall") for group in class_groups(class_counts)]


def with_group_metrics(metrics: dict[str, float], class_counts: dict[str, int]) -> dict[str, float]:
    """Return `metrics` with `val/precision/tail` and so on added: the means over each group's classes."""
    added: dict[str, Any] = {}
    for group, names in class_groups(class_counts).items():
        for prefix in ("val/precision", "val/recall", "test/precision", "test/recall"):
            values = [metrics[key] for name in names if (key := f"{prefix}/{name}") in metrics]
            if len(values) == len(names):
                added[f"{prefix}/{group}"] = sum(values) / len(values)
    return metrics | added
