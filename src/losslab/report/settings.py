"""A study's results, grouped by setting."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from losslab.report.class_groups import with_group_metrics
from losslab.report.results import Result


@dataclass
class SettingResults:
    """All results of one setting: `values[key]` is one number a seed, ordered by seed, as are `runs`, its folders.

    `classes` are those whose metrics every setting of the study has.
    """

    label: str
    arm: str
    varied: dict[str, Any]
    setting_hash: str
    seeds: list[int]
    values: dict[str, list[float]]
    classes: list[str]
    runs: list[str]

    def mean_sd(self, key: str) -> tuple[float, float]:
        """Mean and sample standard deviation over the seeds; the latter is NaN for one seed."""
        numbers = np.asarray(self.values[key])
        return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")


def group_by_setting(results: Sequence[Result]) -> list[SettingResults]:
    """The settings in the order of the results."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["setting_hash"], []).append(result)
    settings = [_setting(group) for group in groups.values()]
    # Kept results that were put back beside new ones have means only: by class is told what all of them have.
    common = set.intersection(*(set(setting.classes) for setting in settings)) if settings else set()
    for setting in settings:
        setting.classes = [name for name in setting.classes if name in common]
    for label, count in Counter(setting.label for setting in settings).items():
        for setting in settings if count > 1 else []:
            if setting.label == label:  # numbers in labels are rounded: a search may draw two that look alike
                setting.label = f"{label} ({setting.setting_hash[:4]})"
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
        classes=[  # and not the groups of classes, which are measured here
            key.removeprefix("val/recall/")
            for key in keys
            if key.startswith("val/recall/") and key in first["metrics"] and key != "val/recall/macro"
        ],
        runs=[result.get("run", "") for result in group],
    )


def percent(mean: float, sd: float) -> str:
    """A mean and a standard deviation in percent; without the latter if it is NaN."""
    return f"{100 * mean:.2f}" if np.isnan(sd) else f"{100 * mean:.2f}±{100 * sd:.2f}"
