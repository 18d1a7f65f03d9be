"""A study or a confirmation as settings, verdicts and an answer in three sentences."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from losslab.errors import UserError
from losslab.report.verdicts import Family, Verdict, compare
from losslab.run import read_yaml, study_name
from losslab.study import Result, SettingResults, StudyFile, group_by_setting, percent, read_declared, read_results

CONFIRM_FOLDER = "confirm"
TEST_FOLDER = "test"
"""The folder of a confirmation with one result for each run that was evaluated on the test images."""


@dataclass
class Summary:
    """A study's results, as the terminal, the page and report.md show them.

    Args:
        name: the study's name.
        heading: the split, the images and the seeds of the numbers.
        study: the study file, as the study's record declares it.
        settings: the settings to compare, in order: all, or each at its best tuned value if the study tunes.
        tried: all settings, in order.
        best: the complete setting with the best mean of the monitored metric; the first setting if none is complete.
        baseline: the declared baseline, if it is complete.
        family: the comparisons with the baseline.
        answer: three sentences at most.
    """

    name: str
    heading: str
    study: StudyFile
    settings: list[SettingResults]
    tried: list[SettingResults]
    best: SettingResults
    baseline: SettingResults | None
    family: Family | None
    answer: list[str]

    @property
    def chosen(self) -> SettingResults:
        """The setting to continue with: the best, or the baseline if the best is not shown to be better."""
        if self.baseline is None or self.family is None:
            return self.best
        verdict = self.family.of(self.best.label, self.study.monitor)
        better = "higher" if self.study.direction == "maximize" else "lower"
        return self.best if verdict is not None and verdict.word == better else self.baseline

    @property
    def complete(self) -> list[SettingResults]:
        """The settings with a result for each seed."""
        return [setting for setting in self.settings if self.study.is_complete(setting)]

    @property
    def ranked(self) -> list[SettingResults]:
        """The complete settings, or all if none is complete, the best mean of the monitored metric first."""
        settings = self.complete or self.settings
        return sorted(settings, key=lambda s: -self.study.sign * s.mean_sd(self.study.monitor)[0])


def summarise(name: str, results: list[Result], study: StudyFile) -> Summary:
    """Group results by setting, and compare the complete settings with the baseline.

    Args:
        name: the study's name.
        results: one or more. A setting that failed or was pruned before its last seed cannot be the best one.
        study: declares the monitored metric, the baseline and the family.
    """
    tried = group_by_setting(results)
    settings = study.tuned(tried) if study.tune else tried
    heading = _heading(name, results, study)
    summary = Summary(name, heading, study, settings, tried, settings[0], None, None, [])
    complete = summary.complete
    if complete:
        summary.best = study.best(complete)
        summary.baseline = next((setting for setting in complete if study.is_baseline(setting)), None)
    if summary.baseline is not None:
        keys = [key for key in study.endpoints(results) if all(key in setting.values for setting in complete)]
        summary.family = compare(complete, summary.baseline, keys)
    summary.answer = _answer(summary)
    return summary


def summarise_folder(folder: Path) -> tuple[Summary, list[Result]]:
    """Return the summary of runs/<study>, and its results.

    Raises:
        UserError: the folder holds no study, or the study has no result.
    """
    study = read_declared(folder)
    results = read_results(folder)
    if not results:
        raise UserError(f"{folder} has no result yet; `losslab sweep` makes them.")
    return summarise(study_name(folder), results, study), results


def _heading(name: str, results: list[Result], study: StudyFile) -> str:
    varied = {path for result in results for path in result["setting"]["values"]}
    # In a confirmation the learning rate is part of a setting's label.
    tuned = any(path.endswith(".lr") for path in varied) or all("lr=" in result["label"] for result in results)
    rate = "" if tuned else ", at one learning rate"
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    names = " and ".join(sorted({result["data_name"] for result in results}))
    split = "validation" if study.split == "val" else "test"
    return f"{name}: {split} split of {names}, mean and sd over {seeds}{rate}"


def _answer(summary: Summary) -> list[str]:
    best, baseline, family, monitor = summary.best, summary.baseline, summary.family, summary.study.monitor
    if not summary.complete:
        return ["No setting has a result for each of its seeds: there is nothing to compare yet."]
    if summary.study.split == "test":
        if family is None:
            return ["The baseline has no result for each seed: nothing is compared."]
        return [_differences(family), family.method]
    if baseline is None or family is None:
        value = f"{metric_title(monitor)} {percent(*best.mean_sd(monitor))} %"
        return [
            f"Best of {len(summary.settings)} on validation: {best.label}, {value} (n = {len(best.seeds)}).",
            "The best of several settings is likely worse on fresh seeds; without a baseline nothing is compared.",
        ]
    if best is baseline:
        choice = f"No setting has a better mean {metric_title(monitor)} than {baseline.label}, the baseline."
    else:
        verdict = family.of(best.label, monitor)
        assert verdict is not None
        hint = f" ({verdict.hint})" if verdict.hint else ""
        kept = "" if summary.chosen is best else f", so {baseline.label} stays the choice"
        choice = (
            f"{best.label} has the best mean {metric_title(monitor)}: {format_interval(verdict)} points against the "
            f"baseline, {verdict.word}{hint}{kept}."
        )
    return [_differences(family), choice, family.method]


def _differences(family: Family) -> str:
    """A sentence with the settings whose metrics are shown to differ from the baseline's."""
    metrics = ", ".join(map(metric_title, family.metrics))
    if not family.verdicts:
        return f"There is nothing yet to compare with {family.baseline}."
    if not family.shown:
        settings = {verdict.setting for verdict in family.verdicts}
        against = next(iter(settings)) if len(settings) == 1 else f"any of {len(settings)} settings"
        return f"No difference between {against} and {family.baseline} is shown in {metrics}."
    parts = []
    for setting in dict.fromkeys(verdict.setting for verdict in family.shown):
        by_word = {
            word: [metric_title(v.metric) for v in family.shown if (v.setting, v.word) == (setting, word)]
            for word in ("higher", "lower")
        }
        words = " and ".join(f"{word} {', '.join(names)}" for word, names in by_word.items() if names)
        parts.append(f"{setting} has {words}")
    rest = family.size - len(family.shown)
    others = f"; the other {rest} of {family.size} comparisons are not shown" if rest else ""
    return f"Against {family.baseline}, {'; '.join(parts)}{others}."


def format_interval(verdict: Verdict) -> str:
    """Format the difference in percentage points with its interval; with its sd if there are too few seeds for one."""
    if not verdict.decidable:
        return points(verdict.mean) + ("" if math.isnan(verdict.sd) else f" (sd {100 * verdict.sd:.2f})")
    # An interval that excludes zero needs enough digits to show it.
    nearest = min(abs(verdict.low), abs(verdict.high))
    digits = 2 if verdict.word == "not shown" else next((d for d in (2, 3) if round(100 * nearest, d)), 4)
    mean, low, high = (points(number, digits) for number in (verdict.mean, verdict.low, verdict.high))
    return f"{mean} [{low}, {high}]"


def points(difference: float, digits: int = 2) -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{round(100 * difference, digits) + 0.0:+.{digits}f}".replace("-", "−")  # + 0.0: no minus before zero


def metric_title(key: str) -> str:
    """Return a metric's key in words: "tail recall" for "val/recall/tail"."""
    parts = key.split("/")[1:]
    words = {"f1": "F1", "ece": "ECE", "acc": "accuracy"}
    return " ".join(words.get(part, part) for part in reversed(parts))


class Confirmation(NamedTuple):
    """The results of a confirmation on the test images.

    Args:
        summary: the test metrics, against the same baseline.
        reads: number of runs evaluated on the test images.
        second_reads: number of those whose configuration and seed had been evaluated on them before.
        whole: whether every setting has a test result for every seed.
    """

    summary: Summary
    reads: int
    second_reads: int
    whole: bool

    @property
    def reads_text(self) -> str:
        """The number of test reads in words."""
        again = f", {self.second_reads} of them not for the first time" if self.second_reads else ", each once"
        return f"{self.reads} runs{again}"

    @property
    def status_text(self) -> str:
        """The number of test reads, and whether the confirmation is complete, in sentences."""
        unfinished = "" if self.whole else " It is not finished: missing results are not compared."
        return f"Test images read: {self.reads_text}.{unfinished}"


def confirmation_folders(study: Path) -> list[Path]:
    """Return runs/<study>/confirm, confirm-2 and so on, in this order."""
    found = [file.parent for file in study.glob(f"{CONFIRM_FOLDER}*/study.yaml")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def read_confirmations(study: Path) -> list[Confirmation]:
    """Return the confirmations of runs/<study> with test results."""
    read = [read_confirmation(folder) for folder in confirmation_folders(study)]
    return [confirmation for confirmation in read if confirmation is not None]


def read_confirmation(folder: Path) -> Confirmation | None:
    """Return the confirmation in runs/<study>/confirm; None if it has no test result.

    Raises:
        UserError: the confirmation's study.json cannot be read.
    """
    results = read_results(folder / TEST_FOLDER)
    if not results:
        return None
    study = read_declared(folder)
    planned = len(read_yaml(folder / "study.yaml")["arms"]) * len(study.seeds)
    return confirmation_of(study_name(folder), results, study, len(results) == planned)


def confirmation_of(name: str, results: list[Result], study: StudyFile, whole: bool) -> Confirmation:
    """Summarise a confirmation's test results.

    Args:
        name: runs/<study>/confirm without "runs/".
        results: one or more, from the folder `TEST_FOLDER`.
        study: the confirmation's study file, whose metrics are validation metrics.
        whole: whether `results` has every setting at every seed.
    """
    monitor, *family = (f"test/{key.removeprefix('val/')}" for key in (study.monitor, *study.family))
    second = sum(result.get("earlier_reads", 0) > 0 for result in results)
    summary = summarise(name, results, dataclasses.replace(study, monitor=monitor, family=family))
    return Confirmation(summary, len(results), second, whole)


def is_over(folder: Path) -> bool:
    """Return whether a confirmation is complete: each run has a test result, and summary.csv is written."""
    whole = len(read_results(folder)) == len(read_results(folder / TEST_FOLDER)) > 0
    return whole and (folder / "summary.csv").is_file()
