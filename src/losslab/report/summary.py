"""A study or a confirmation as settings, verdicts and an answer in three sentences."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from losslab.errors import UserError
from losslab.metrics import is_share
from losslab.report.image_spread import image_spread
from losslab.report.records import (
    changed_code_text,
    confirmation_folders,
    limits_text,
    loss_identity,
    read_config,
    require_same_conditions,
    validation_text,
)
from losslab.report.trials import read_trials, trainings_left
from losslab.report.verdicts import Family, Verdict, Word, compare
from losslab.run import read_yaml, study_name
from losslab.study import (
    Result,
    SettingResults,
    StudyFile,
    format_mean,
    group_by_setting,
    read_declared,
    read_results,
    short_names,
)

MOST_NAMED = 12
"""Settings that a sentence of the answer names; the tables have all."""
TEST_FOLDER = "test"
"""The folder of a confirmation with one result for each run that was evaluated on the test images."""


@dataclass
class Summary:
    """A study's results, as the terminal, the page and report.md show them.

    Args:
        name: the study's name.
        heading: the split, the images and the seeds of the numbers.
        study: the study file, as the study's record declares it.
        settings: the settings to compare, in order: all or, if the study tunes, each at its best tuned value, or at
            that of each seed.
        tried: all settings, in order.
        best: the complete setting with the best mean of the monitored metric; the first setting if none is complete.
        baseline: the declared baseline, if it is complete.
        family: the comparisons with the baseline.
        same_loss: whether all settings have the same loss, without which the values of a loss are not compared.
        left: where each seed tunes, the number of trainings that are left, as far as is known; nothing is compared
            before they are done.
    """

    name: str
    heading: str
    study: StudyFile
    settings: list[SettingResults]
    tried: list[SettingResults]
    best: SettingResults
    baseline: SettingResults | None
    family: Family | None
    same_loss: bool
    left: int = 0

    @property
    def answer(self) -> list[str]:
        """The results in three sentences at most."""
        return _answer(self)

    @property
    def close_choices(self) -> list[str]:
        """For each candidate of a study that tunes one value for all seeds: how close the best two values were."""
        if not self.study.tune or self.study.tunes_each_seed:
            return []
        ranked = [sorted(group, key=self.study.score, reverse=True)[:2] for group in self.study.groups(self.tried)]
        key = self.study.monitor
        return [", ".join(f"{s.label} {format_mean(key, *s.mean_sd(key))}" for s in pair) for pair in ranked]

    @property
    def candidates(self) -> list[SettingResults]:
        """All settings; where each seed tunes, without the tuned values."""
        return self.settings if self.study.tunes_each_seed else self.tried

    @property
    def comparable(self) -> bool:
        """Whether the monitored metric compares the settings; a loss does not if theirs are on different scales."""
        return self.same_loss or not is_loss(self.study.monitor)

    @property
    def chosen(self) -> SettingResults:
        """The setting to continue with: the best if it is shown to be better than the baseline, else the baseline.

        In a confirmation, the best on validation of those that the test images show to be better: the highest of
        several test means would be a choice on the test images.
        """
        if self.baseline is None or self.family is None:
            return self.best
        monitor, confirms = self.study.monitor, self.study.split == "test"
        verdicts = ((s, self.family.of(s.label, monitor)) for s in (self.complete if confirms else [self.best]))
        better = [setting for setting, verdict in verdicts if verdict is not None and verdict.better]
        validation = dataclasses.replace(self.study, monitor=f"val/{monitor.partition('/')[2]}")
        return max(better, key=validation.score, default=self.baseline)

    @property
    def complete(self) -> list[SettingResults]:
        """The settings with a result for each seed."""
        return [setting for setting in self.settings if self.study.is_complete(setting)]

    @property
    def ranked(self) -> list[SettingResults]:
        """The complete settings, or all if none is complete, the best mean of the monitored metric first."""
        settings = self.complete or self.settings
        return sorted(settings, key=self.study.score, reverse=True)


def summarise(name: str, results: list[Result], study: StudyFile, same_loss: bool = True) -> Summary:
    """Group results by setting, and compare the complete settings with the baseline.

    Args:
        name: the study's name.
        results: one or more. A setting that failed or was pruned before its last seed cannot be the best one.
        study: declares the monitored metric, the baseline and the family.
        same_loss: whether all settings have the same loss; else the values of a loss are not compared.
    """
    tried = group_by_setting(results)
    replicates = study.replicates(results)
    settings = group_by_setting(replicates) if study.tunes_each_seed else study.tuned(tried) if study.tune else tried
    complete = [setting for setting in settings if study.is_complete(setting)]
    best = study.best(complete) if complete else settings[0]
    baseline = next((setting for setting in complete if study.is_baseline(setting)), None)
    family = None
    if baseline is not None:
        endpoints = [key for key in study.endpoints(results) if same_loss or not is_loss(key)]
        keys = [key for key in endpoints if all(key in setting.values for setting in complete)]
        family = compare(complete, baseline, keys, study.margins)
    return Summary(name, _heading(name, replicates, study), study, settings, tried, best, baseline, family, same_loss)


def summarise_folder(folder: Path) -> tuple[Summary, list[Result]]:
    """Return the summary of runs/<study>, and its results.

    Raises:
        UserError: the folder holds no study, or the study has no result, or results of different images.
    """
    study = read_declared(folder)
    results = read_results(folder)
    if not results:
        raise UserError(f"{folder} has no result yet; `losslab sweep` makes them.")
    summary = _summarise(folder, results, study)
    if study.tunes_each_seed and (left := trainings_left(read_trials(folder, study).trials, study, results)):
        summary.left, summary.family = left, None
        summary.heading += f", not finished: {left} {'training is' if left == 1 else 'trainings are'} left"
    return summary, results


def _summarise(folder: Path, results: list[Result], study: StudyFile) -> Summary:
    """Return the summary of a study's or a confirmation's results, with what its record and its runs tell."""
    require_same_conditions(folder, results)
    same_loss = True
    if any(map(is_loss, study.endpoints(results))):
        configs = filter(None, (read_config(folder, setting) for setting in group_by_setting(results)))
        same_loss = len(set(map(loss_identity, configs))) <= 1
    summary = summarise(study_name(folder), results, study, same_loss)
    like = f", validation {text}" if (text := validation_text(folder)) else ""
    summary.heading += like + changed_code_text(folder, results)
    return summary


def is_loss(key: str) -> bool:
    """Return whether a metric is the loss, whose values compare settings with the same loss only."""
    return key.partition("/")[2] == "loss"


def _heading(name: str, results: list[Result], study: StudyFile) -> str:
    varied = {path for result in results for path in result["setting"]["values"]}
    if tuned := dict.fromkeys(path for result in results for path in result.get("tuned", {})):
        rate = f", {' and '.join(short_names(tuned).values())} tuned by each seed"
    else:  # in a confirmation the learning rate is part of a setting's label
        several = any(path.endswith(".lr") for path in varied) or all("lr=" in result["label"] for result in results)
        rate = "" if several else ", at one learning rate"
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    names = " and ".join(sorted({result["data_name"] for result in results}))
    split = "validation" if study.split == "val" else "test"
    limits = f", {text}" if (text := limits_text(results)) else ""
    return f"{name}: {split} split of {names}, mean and sd over {seeds}{rate}{limits}"


def _answer(summary: Summary) -> list[str]:
    best, baseline, family, monitor = summary.best, summary.baseline, summary.family, summary.study.monitor
    if summary.left:
        return ["The study is not finished, and what a seed chooses may still change: nothing is compared yet."]
    if not summary.complete:
        return ["No setting has a result for each of its seeds: there is nothing to compare yet."]
    if not summary.comparable:
        return [f"The settings differ in their loss, so {monitor} does not compare them: monitor another metric."]
    if family is not None and not family.verdicts:
        return [family.method]
    if summary.study.split == "test":
        if family is None:
            return ["The baseline has no result for each seed: nothing is compared."]
        return [_differences(family), family.method]
    if baseline is None or family is None:
        value = f"{metric_title(monitor)} {format_mean(monitor, *best.mean_sd(monitor))}{' %' * is_share(monitor)}"
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
            f"{best.label} has the best mean {metric_title(monitor)}: {format_interval(verdict)}"
            f"{' points' * is_share(monitor)} against the baseline, {verdict.word}{hint}{kept}."
        )
    return [_differences(family), choice, family.method]


def _differences(family: Family) -> str:
    """Return a sentence with the settings whose metrics are shown to differ from the baseline's, or to be alike."""
    named = [verdict for verdict in family.verdicts if verdict.word != "not shown"]
    if not named:
        settings = {verdict.setting for verdict in family.verdicts}
        against = settings.pop() if len(settings) == 1 else f"any of {len(settings)} settings"
        metrics = ", ".join(map(metric_title, family.metrics))
        return f"No difference between {against} and {family.baseline} is shown in {metrics}."
    parts = []
    groups: dict[str, list[Verdict]] = {}
    for verdict in named:
        groups.setdefault(verdict.setting, []).append(verdict)
    for setting, verdicts in itertools.islice(groups.items(), MOST_NAMED):
        phrases = {}
        for word in get_args(Word):
            if metrics := ", ".join(metric_title(v.metric) for v in verdicts if v.word == word):
                direction, _, less = word.partition(", ")
                phrases[word] = f"{direction}{' in' * (word == 'alike')} {metrics}{f' ({less})' if less else ''}"
        alike = phrases.pop("alike", None)
        told = [f"has {' and '.join(phrases.values())}"] * bool(phrases) + [f"is {alike}"] * bool(alike)
        parts.append(f"{setting} {', and '.join(told)}")
    if (more := len(groups) - MOST_NAMED) > 0:
        parts.append(
            f"and {more} more setting{'s differ or are' if more > 1 else ' differs or is'} alike, which report.md lists"
        )
    rest = family.size - len(named)
    others = f"; the other {rest} of {family.size} comparisons {'is' if rest == 1 else 'are'} not shown" if rest else ""
    return f"Against {family.baseline}, {'; '.join(parts)}{others}."


def format_interval(verdict: Verdict) -> str:
    """Format the difference, as `format_difference`, with its interval; with its sd if too few seeds give none."""
    key = verdict.metric
    if math.isinf(verdict.high):
        sd = f"{100 * verdict.sd:.2f}" if is_share(key) else f"{verdict.sd:.2g}"
        return format_difference(key, verdict.mean) + ("" if math.isnan(verdict.sd) else f" (sd {sd})")
    # An interval that excludes zero needs enough digits to show it.
    nearest = min(abs(verdict.low), abs(verdict.high))
    digits = 2 if not verdict.direction else next((d for d in (2, 3) if round(100 * nearest, d)), 4)
    mean, low, high = (format_difference(key, end, digits) for end in (verdict.mean, verdict.low, verdict.high))
    return f"{mean} [{low}, {high}]"


def format_difference(key: str, difference: float, digits: int = 2) -> str:
    """Format a metric's difference with its sign: of shares in percentage points, of a loss in its own units."""
    # + 0.0: no minus before zero; #: three digits of 0.100, too
    points = round(100 * difference, digits) + 0.0
    text = f"{points:+.{digits}f}" if is_share(key) else f"{difference + 0.0:+#.3g}".rstrip(".")
    return text.replace("-", "−")


def metric_title(key: str) -> str:
    """Return a metric's key in words: "tail recall" for "val/recall/tail"."""
    parts = key.split("/")[1:]
    words = {"f1": "F1", "ece": "ECE", "acc": "accuracy"}
    return " ".join(words.get(part, part) for part in reversed(parts))


def column_title(key: str, unit: str = "") -> str:
    """Return a metric's title for a table in percent or in points, `unit` behind it; a loss is marked as neither."""
    return f"{metric_title(key)}{unit if is_share(key) else ', own units'}"


class Confirmation(NamedTuple):
    """The results of a confirmation on the test images.

    Args:
        summary: the test metrics, against the same baseline.
        reads: number of runs evaluated on the test images.
        second_reads: number of those whose configuration and seed had been evaluated on them before.
        whole: whether every setting has a test result for every seed.
        folder: runs/<study>/confirm.
        earlier: the study's confirmations that read the test images before this one.
    """

    summary: Summary
    reads: int
    second_reads: int
    whole: bool
    folder: Path = Path()
    earlier: tuple[str, ...] = ()

    @property
    def reads_text(self) -> str:
        """The number of test reads in words."""
        again = f"{self.second_reads} of them not for the first time" if self.second_reads else "each once"
        return f"{self.reads} runs, {again}"

    @property
    def status_text(self) -> str:
        """The number of test reads, and whether the confirmation is the first one and complete, in sentences."""
        again = f" They had been read for {' and '.join(self.earlier)} before." if self.earlier else ""
        unfinished = "" if self.whole else " It is not finished: missing results are not compared."
        return f"Test images read: {self.reads_text}.{again}{unfinished}"

    @property
    def choice_text(self) -> str:
        """The setting that the confirmation chooses, and why, in a sentence; "" if nothing is compared."""
        chosen, baseline, metric = self.summary.chosen, self.summary.baseline, metric_title(self.summary.study.monitor)
        if baseline is None or self.summary.family is None:
            return ""
        if chosen is baseline:
            return f"No setting is shown to have a better {metric} than {baseline.label}, which is the choice."
        return f"{chosen.label} is shown to have a better {metric} than {baseline.label}, and is the choice."


def read_confirmations(study: Path) -> list[Confirmation]:
    """Return the confirmations of runs/<study> with test results."""
    read = [read_confirmation(folder) for folder in confirmation_folders(study)]
    return [confirmation for confirmation in read if confirmation is not None]


def counting_confirmation(confirmations: Sequence[Confirmation]) -> Confirmation | None:
    """Return the confirmation whose choice counts, of all of a study: the last one that is over.

    None if there is none, or if its baseline has no result for each seed, so that it compares nothing.
    """
    over = [confirmation for confirmation in confirmations if is_over(confirmation.folder)]
    return over[-1] if over and over[-1].summary.family is not None else None


def read_confirmation(folder: Path) -> Confirmation | None:
    """Return the confirmation in runs/<study>/confirm; None if it has no test result.

    Raises:
        UserError: the confirmation's study.json cannot be read, or its results are of different images.
    """
    results = read_results(folder / TEST_FOLDER)
    if not results:
        return None
    study = read_declared(folder)
    planned = len(read_yaml(folder / "study.yaml")["arms"]) * len(study.seeds)
    second = sum(result.get("earlier_reads", 0) > 0 for result in results)
    summary = _summarise(folder, results, _on_test_images(study))
    if family := summary.family:
        images = image_spread(folder, summary.complete, results, family.baseline, family.metrics)
        summary.family = dataclasses.replace(family, images=images)
    known = confirmation_folders(folder.parent)
    earlier = [study_name(each) for each in known[: known.index(folder)] if read_results(each / TEST_FOLDER)]
    return Confirmation(summary, len(results), second, len(results) == planned, folder, tuple(earlier))


def confirmation_of(name: str, results: list[Result], study: StudyFile, whole: bool) -> Confirmation:
    """Summarise a confirmation's test results, without its folder.

    Args:
        name: runs/<study>/confirm without "runs/".
        results: one or more, from the folder `TEST_FOLDER`.
        study: the confirmation's study file, whose metrics are validation metrics.
        whole: whether `results` has every setting at every seed.
    """
    second = sum(result.get("earlier_reads", 0) > 0 for result in results)
    return Confirmation(summarise(name, results, _on_test_images(study)), len(results), second, whole)


def _on_test_images(study: StudyFile) -> StudyFile:
    """Return a study file whose validation metrics are the same ones of the test images."""
    monitor, *family = (f"test/{key.removeprefix('val/')}" for key in (study.monitor, *study.family))
    margins = {f"test/{key.removeprefix('val/')}": margin for key, margin in study.margins.items()}
    return dataclasses.replace(study, monitor=monitor, family=family, margins=margins)


def is_over(folder: Path) -> bool:
    """Return whether a confirmation is complete: each replicate has a test result, and summary.csv is written."""
    if not (folder / "summary.csv").is_file() or not (results := read_results(folder)):
        return False
    return len(read_declared(folder).replicates(results)) == len(read_results(folder / TEST_FOLDER))
