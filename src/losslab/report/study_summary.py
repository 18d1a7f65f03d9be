"""What came out of a study: per setting, mean and spread over seeds; the best against the baseline."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from losslab.report.paired import Difference, paired_difference
from losslab.report.precision_recall_figure import write_precision_recall
from losslab.report.results import Result
from losslab.report.terminal import console, dense_table
from losslab.run.run_folder import write_whole


class Comparison(Protocol):
    """What the summary needs to know of a study file."""

    seeds: list[int]
    monitor: str
    direction: Any
    grid: dict[str, list[Any]]
    baseline: dict[str, Any] | None
    family: list[str]


@dataclass
class SettingResults:
    """All results of one setting: `values[key]` is one number a seed, ordered by seed."""

    label: str
    arm: str
    varied: dict[str, Any]
    seeds: list[int]
    values: dict[str, list[float]]

    def mean_sd(self, key: str) -> tuple[float, float]:
        """Mean and sample standard deviation over the seeds; the latter is NaN for one seed."""
        numbers = np.asarray(self.values[key])
        return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else float("nan")


@dataclass
class Summary:
    """The settings in order, the best by mean, and how it stands against the baseline, if there is one."""

    settings: list[SettingResults]
    best: SettingResults
    baseline: SettingResults | None
    difference: Difference | None
    sentence: str

    @property
    def chosen(self) -> SettingResults:
        """The setting to go on with: the best, unless it is not shown to differ from the baseline."""
        if self.baseline is not None and self.difference is not None and not self.difference.resolved:
            return self.baseline
        return self.best


def summarise(results: Sequence[Result], study: Comparison) -> Summary:
    """Group results by setting, and compare the best complete one with the baseline.

    Args:
        results: one or more; a setting that failed or was pruned before its last seed takes no part in the choice.
        study: what was monitored, and the declared comparison.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["setting_hash"], []).append(result)
    settings = [_setting_results(group) for group in groups.values()]
    complete = [setting for setting in settings if setting.seeds == sorted(study.seeds)]
    if not complete:
        sentence = "No setting has a result for each of its seeds: there is nothing to compare yet."
        return Summary(settings, settings[0], None, None, sentence)
    sign = 1 if study.direction == "maximize" else -1
    best = max(complete, key=lambda setting: sign * setting.mean_sd(study.monitor)[0])
    baseline = next((setting for setting in complete if is_baseline(setting, study)), None)
    if baseline is None:
        sentence = (
            f"Best of {len(settings)} on validation: {best.label}, {study.monitor} "
            f"{_percent(*best.mean_sd(study.monitor))} % (n = {len(best.seeds)}). "
            "Chosen for being highest, it is likely lower on fresh seeds."
        )
        return Summary(settings, best, None, None, sentence)
    if best is baseline:
        sentence = f"No setting has a better mean {study.monitor} than {baseline.label}, the baseline."
        return Summary(settings, best, baseline, None, sentence)
    size = family_size(settings, study)
    difference = paired_difference(best.values[study.monitor], baseline.values[study.monitor], size)
    verdict = "resolved" if difference.resolved else "not resolved: nothing is shown"
    sentence = (
        f"{best.label} minus {baseline.label} in {study.monitor}: {_points(difference)} points "
        f"(paired over {difference.n} seeds, 95 % for the family of {size} comparisons): {verdict}."
    )
    return Summary(settings, best, baseline, difference, sentence)


def is_baseline(setting: SettingResults, study: Comparison) -> bool:
    """Whether `setting` is the study's declared baseline."""
    return study.baseline is not None and {"arm": setting.arm, **setting.varied} == study.baseline


def family_size(settings: Sequence[SettingResults], study: Comparison) -> int:
    """Number of declared comparisons: metrics of the family times settings other than the baseline."""
    return max(1, len(study.family) * (len(settings) - 1))


def show_summary(results: Sequence[Result], study: Comparison, folder: Path) -> Summary:
    """Print the summary, and write summary.csv and precision_recall.html into the study's folder."""
    summary = summarise(results, study)
    heading = _heading(results, study, folder.name)
    _write_csv(folder / "summary.csv", summary, heading)
    out = console()
    out.print(f"\n{heading}", highlight=False)
    _print_headline(out, summary)
    for metric in ("precision", "recall"):
        _print_each_class(out, summary, metric)
    if summary.baseline is not None:
        _print_differences(out, summary, study)
    out.print(summary.sentence, highlight=False)
    figure = folder / "precision_recall.html"
    drawn = write_precision_recall(figure, summary.settings, heading)
    out.print(f"{folder / 'summary.csv'}{f', {figure}' if drawn else ''}", highlight=False)
    return summary


def _heading(results: Sequence[Result], study: Comparison, name: str) -> str:
    varied = {path for result in results for path in result["setting"]["values"]}
    rate = "" if any(path.endswith(".lr") for path in varied) else ", at one learning rate"
    names = " and ".join(sorted({result["data_name"] for result in results}))
    return f"{name}: validation split of {names}, mean and sd over {len(study.seeds)} seeds{rate}"


def _setting_results(group: list[Result]) -> SettingResults:
    first = group[0]
    keys = [key for key in first["metrics"] if all(key in result["metrics"] for result in group)]
    values = {key: [result["metrics"][key] for result in group] for key in keys}
    setting = first["setting"]
    return SettingResults(first["label"], setting["arm"], setting["values"], [r["seed"] for r in group], values)


def _percent(mean: float, sd: float) -> str:
    return f"{100 * mean:.2f}" if np.isnan(sd) else f"{100 * mean:.2f}±{100 * sd:.2f}"


def _points(difference: Difference) -> str:
    """A difference in percentage points."""
    mean, low, high = (100 * number for number in difference[:3])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _write_csv(path: Path, summary: Summary, heading: str) -> None:
    """A comment line, then one row a setting: mean and sd of every validation metric."""
    keys = [key for key in summary.settings[0].values if key.startswith(("val/", "train/"))]
    table = io.StringIO()
    table.write(f"# {heading}\n")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["setting", "seeds", *(f"{key} {part}" for key in keys for part in ("mean", "sd"))])
    for setting in summary.settings:
        numbers = [f"{number:.6f}" for key in keys for number in setting.mean_sd(key)]
        writer.writerow([setting.label, len(setting.seeds), *numbers])
    write_whole(path, table.getvalue())


def _print_headline(out: Console, summary: Summary) -> None:
    columns = {"precision/macro": "precision", "recall/macro": "recall", "f1/macro": "F1", "ece": "ECE"}
    table = dense_table("setting", "n", *columns.values(), title="macro means, %")
    for setting in summary.settings:
        cells = [_percent(*setting.mean_sd(f"val/{key}")) for key in columns]
        table.add_row(setting.label, str(len(setting.seeds)), *cells)
    out.print(table)


def _print_each_class(out: Console, summary: Summary, metric: str) -> None:
    """One row a class, one column a setting; of more than six settings, the best three."""
    prefix = f"val/{metric}/"
    settings = summary.settings
    title = f"{metric}, %"
    if len(settings) > 6:
        settings = sorted(settings, key=lambda setting: -setting.mean_sd("val/f1/macro")[0])[:3]
        title += ", of the three settings with the best macro F1"
    table = dense_table("class", *(setting.label for setting in settings), title=title)
    for key in summary.settings[0].values:
        if key.startswith(prefix) and key != f"{prefix}macro":
            table.add_row(key.removeprefix(prefix), *(_percent(*setting.mean_sd(key)) for setting in settings))
    out.print(table)


def _print_differences(out: Console, summary: Summary, study: Comparison) -> None:
    baseline = summary.baseline
    assert baseline is not None
    size = family_size(summary.settings, study)
    title = f"minus {baseline.label}, in points; 95 % intervals for all {size} comparisons together"
    table = dense_table("setting", *(key.removeprefix("val/") for key in study.family), title=title)
    for setting in summary.settings:
        if setting is not baseline and setting.seeds == baseline.seeds:
            cells = (paired_difference(setting.values[key], baseline.values[key], size) for key in study.family)
            table.add_row(setting.label, *map(_points, cells))
    out.print(table)
