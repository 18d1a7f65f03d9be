"""What came out of a study: its settings, the verdicts on the declared family, and the answer in three sentences."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from losslab.report.verdicts import Family, Verdict, compare
from losslab.run import read_yaml, study_name
from losslab.study import Result, SettingResults, StudyFile, group_by_setting, percent, read_declared, read_results


@dataclass
class Summary:
    """A study's results as terminal, page and Markdown show them.

    Args:
        name: the study's.
        heading: what was measured on which images.
        study: the study file, as its record declares it.
        settings: what is compared, in order: all or, where something was tuned, each at its best value.
        tried: all, in order.
        best: the best complete setting by the mean of the monitored metric; the first one if none is complete.
        baseline: the declared one, if it is complete.
        family: the comparisons with it.
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
        """The setting to go on with: the best, unless it is not shown to be better than the baseline."""
        if self.baseline is None or self.family is None:
            return self.best
        verdict = self.family.of(self.best.label, self.study.monitor)
        better = "higher" if self.study.direction == "maximize" else "lower"
        return self.best if verdict is not None and verdict.word == better else self.baseline

    @property
    def complete(self) -> list[SettingResults]:
        """The settings with a result for each seed."""
        return [setting for setting in self.settings if self.study.is_complete(setting)]


def summarise(name: str, results: list[Result], study: StudyFile) -> Summary:
    """Group results by setting, and compare the complete ones with the baseline.

    Args:
        name: the study's.
        results: one or more; a setting that failed or was pruned before its last seed takes no part in the choice.
        study: what is monitored, and what is compared.
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
    """The summary of runs/<study>, and its results.

    Raises:
        UserError: there is no study, or it has no result.
    """
    from losslab.errors import UserError

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
    value = f"{metric_title(monitor)} {percent(*best.mean_sd(monitor))} %"
    if summary.study.split == "test":
        if family is None:
            return ["The baseline has no result for each seed: nothing is compared."]
        return [_shown(family), family.method]
    if baseline is None or family is None:
        return [
            f"Best of {len(summary.settings)} on validation: {best.label}, {value} (n = {len(best.seeds)}).",
            "Chosen for being best, it is likely worse on fresh seeds; without a baseline nothing is compared.",
        ]
    if best is baseline:
        choice = f"No setting has a better mean {metric_title(monitor)} than {baseline.label}, the baseline."
    else:
        verdict = family.of(best.label, monitor)
        assert verdict is not None
        kept = "" if summary.chosen is best else f", so {baseline.label} stays the choice"
        choice = f"The best mean {metric_title(monitor)} has {best.label}: {told(verdict)}{kept}."
    return [_shown(family), choice, family.method]


def _shown(family: Family) -> str:
    settings = {verdict.setting for verdict in family.verdicts}
    metrics = ", ".join(map(metric_title, family.metrics))
    if not family.verdicts:
        return f"There is nothing yet to compare with {family.baseline}."
    if not family.shown:
        against = next(iter(settings)) if len(settings) == 1 else f"any of {len(settings)} settings"
        return f"No difference between {against} and {family.baseline} is shown in {metrics}."
    told_of = []
    for setting in dict.fromkeys(verdict.setting for verdict in family.shown):
        found = {
            word: [metric_title(v.metric) for v in family.shown if (v.setting, v.word) == (setting, word)]
            for word in ("higher", "lower")
        }
        told_of.append(
            f"{setting} has " + " and ".join(f"{w} {', '.join(names)}" for w, names in found.items() if names)
        )
    rest = family.size - len(family.shown)
    others = f"; the other {rest} of {family.size} comparisons are not shown" if rest else ""
    return f"Against {family.baseline}, {'; '.join(told_of)}{others}."


def told(verdict: Verdict) -> str:
    """A verdict in words: "+1.00 points [+0.20, +1.80] against the baseline, higher"."""
    hint = f" ({verdict.hint})" if verdict.hint else ""
    return f"{format_interval(verdict)} points against the baseline, {verdict.word}{hint}"


def format_interval(verdict: Verdict) -> str:
    """The difference in percentage points with its interval, or its sd where there are too few seeds for one."""
    if not verdict.decidable:
        return points(verdict.mean) + ("" if math.isnan(verdict.sd) else f" (sd {100 * verdict.sd:.2f})")
    numbers = (verdict.mean, verdict.low, verdict.high)
    # An interval that leaves out zero shows it.
    nearest = min(abs(verdict.low), abs(verdict.high))
    digits = 2 if verdict.word == "not shown" else next((d for d in (2, 3) if round(100 * nearest, d)), 4)
    mean, low, high = (points(number, digits) for number in numbers)
    return f"{mean} [{low}, {high}]"


def points(difference: float, digits: int = 2) -> str:
    """A difference in percentage points, with its sign."""
    return f"{round(100 * difference, digits) + 0.0:+.{digits}f}".replace("-", "−")  # no minus before zero


def metric_title(key: str) -> str:
    """A metric's key in words: "val/recall/tail" is "tail recall"."""
    parts = key.split("/")[1:]
    words = {"f1": "F1", "ece": "ECE", "acc": "accuracy"}
    return " ".join(words.get(part, part) for part in reversed(parts))


CONFIRM_FOLDER = "confirm"
TEST_FOLDER = "test"
"""The folder in a confirmation that holds a result for each run that was read on the test images."""


class Confirmation(NamedTuple):
    """What the test images said.

    Args:
        summary: of the test metrics, against the same baseline.
        reads: runs that were read.
        second_reads: those among them whose configuration and seed had been read before.
        whole: whether every setting that was to be confirmed has been read at every seed.
    """

    summary: Summary
    reads: int
    second_reads: int
    whole: bool

    @property
    def reads_told(self) -> str:
        """In words, for people."""
        again = f", {self.second_reads} of them not for the first time" if self.second_reads else ", each once"
        return f"{self.reads} runs{again}"

    @property
    def status_told(self) -> str:
        """How many runs have read the test images, and whether that is all, in whole sentences."""
        unfinished = "" if self.whole else " It is not finished: what is missing is not compared."
        return f"Test images read: {self.reads_told}.{unfinished}"


def confirmation_folders(study: Path) -> list[Path]:
    """runs/<study>/confirm, confirm-2 and so on, in their order."""
    found = [file.parent for file in study.glob(f"{CONFIRM_FOLDER}*/study.yaml")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def read_confirmation(folder: Path) -> Confirmation | None:
    """What runs/<study>/confirm holds; None if no test image has been read for it.

    Raises:
        UserError: its record is not whole.
    """
    results = read_results(folder / TEST_FOLDER)
    if not results:
        return None
    study = read_declared(folder)
    planned = len(read_yaml(folder / "study.yaml")["arms"]) * len(study.seeds)
    return confirmation_of(study_name(folder), results, study, len(results) == planned)


def confirmation_of(name: str, results: list[Result], study: StudyFile, whole: bool) -> Confirmation:
    """What results with test metrics, one or more, say.

    Args:
        name: runs/<study>/confirm without "runs/".
        results: those in its folder `TEST_FOLDER`.
        study: what the confirmation declared, in terms of the validation split.
        whole: whether all that was to be read is among the results.
    """
    told = dataclasses.replace(study, monitor=_of_test(study.monitor), family=[_of_test(key) for key in study.family])
    second = sum(result.get("earlier_reads", 0) > 0 for result in results)
    return Confirmation(summarise(name, results, told), len(results), second, whole)


def read_confirmations(study: Path) -> list[Confirmation]:
    """Those of runs/<study> for which test images have been read."""
    read = [read_confirmation(folder) for folder in confirmation_folders(study)]
    return [confirmation for confirmation in read if confirmation is not None]


def is_over(folder: Path) -> bool:
    """Whether a confirmation has nothing left to do: each run that did not fail is read, and the tables are written."""
    whole = len(read_results(folder)) == len(read_results(folder / TEST_FOLDER)) > 0
    return whole and (folder / "summary.csv").is_file()


def _of_test(key: str) -> str:
    return f"test/{key.removeprefix('val/')}"
