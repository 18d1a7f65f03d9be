"""The headline table: means over the classes, a row a setting."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from losslab.report.figure import Table
from losslab.report.precision_recall import half_width
from losslab.report.summary import Confirmation, Summary, format_interval, metric_title, points
from losslab.report.verdicts import Family, Verdict
from losslab.run import console, dense_table, write_whole
from losslab.study import SettingResults, percent

HEADLINE = ("precision/macro", "recall/macro", "precision/tail", "recall/tail", "f1/macro", "ece")


def headline(summary: Summary, settings: list[SettingResults]) -> Table:
    """Mean and sd over the seeds, in percent, of these settings of the study."""
    keys = headline_keys(summary)
    rows = [[s.label, str(len(s.seeds)), *(percent(*s.mean_sd(key)) for key in keys)] for s in settings]
    return Table(["setting", "n", *(f"{metric_title(key)}, %" for key in keys)], rows)


def headline_keys(summary: Summary) -> list[str]:
    """The keys of the table that all settings have; a class may bear the name "tail", and is no group."""
    settings, split = summary.settings, summary.study.split
    return [
        f"{split}/{part}"
        for part in HEADLINE
        if all(f"{split}/{part}" in s.values and part.split("/")[-1] not in s.classes for s in settings)
    ]


HALF = 75
"""Pixels from zero to either end of a drawn interval."""


class VerdictCell(NamedTuple):
    """What a cell shows; `bar` holds the interval's ends and middle in pixels, or is None."""

    word: str
    css: str
    interval: str
    hint: str
    bar: tuple[float, float, float] | None


class VerdictRow(NamedTuple):
    """A setting and its cells, one for each metric of the family."""

    setting: str
    cells: list[VerdictCell]


def verdict_rows(family: Family) -> list[VerdictRow]:
    """One row a setting; the intervals of a metric share a scale."""
    widest = {
        key: max((abs(end) for v in family.verdicts if v.metric == key for end in _ends(v)), default=0.0)
        for key in family.metrics
    }
    labels = dict.fromkeys(verdict.setting for verdict in family.verdicts)
    return [
        VerdictRow(label, [_cell(v, widest[v.metric]) for v in family.verdicts if v.setting == label])
        for label in labels
    ]


def _ends(verdict: Verdict) -> tuple[float, ...]:
    return tuple(end for end in (verdict.low, verdict.high) if math.isfinite(end))


def _cell(verdict: Verdict, widest: float) -> VerdictCell:
    css = "none" if verdict.word == "not shown" else verdict.word
    bar = None
    if len(_ends(verdict)) == 2 and widest > 0:
        low, middle, high = (
            round(HALF + (HALF - 5) * end / widest, 1) for end in (verdict.low, verdict.mean, verdict.high)
        )
        bar = (low, middle, high)
    word = verdict.word if verdict.decidable else "no verdict"
    return VerdictCell(word, css, format_interval(verdict), verdict.hint, bar)


def class_differences(summary: Summary) -> Table:
    """Student's paired intervals for every class, of all complete settings."""
    baseline = summary.baseline
    if baseline is None:
        return Table([], [])
    keys = [(name, metric) for name in baseline.classes for metric in ("precision", "recall")]
    rows = []
    for setting in summary.complete:
        if setting is not baseline:
            cells = []
            for name, metric in keys:
                key = f"val/{metric}/{name}"
                difference = np.subtract(setting.values[key], baseline.values[key])
                half, mean = half_width(difference.tolist()), float(difference.mean())
                ends = "" if np.isnan(half) else f" [{points(mean - half)}, {points(mean + half)}]"
                cells.append(points(mean) + ends)
            rows.append([setting.label, *cells])
    return Table(["setting", *(f"{metric} {name}" for name, metric in keys)], rows)


def show_summary(summary: Summary, folder: Path) -> None:
    """Print the summary, and write summary.csv into the study's folder."""
    _write_csv(folder / "summary.csv", summary)
    out = console()
    out.print(f"\n{summary.heading}", highlight=False)
    _print_headline(out, summary)
    for metric in ("precision", "recall"):
        _print_each_class(out, summary, metric)
    if summary.family is not None:
        _print_verdicts(out, summary)
    for sentence in summary.answer:
        out.print(sentence, highlight=False)


def _write_csv(path: Path, summary: Summary) -> None:
    """A comment line, then one row a setting: mean and sd of every metric, empty where a setting does not have it."""
    known = dict.fromkeys(key for setting in summary.settings for key in setting.values)
    keys = [key for key in known if key.startswith(("val/", "train/", "test/"))]
    table = io.StringIO()
    table.write(f"# {summary.heading}\n")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["setting", "seeds", *(f"{key} {part}" for key in keys for part in ("mean", "sd"))])
    for setting in summary.settings:
        cells: list[str] = []
        for key in keys:
            cells += [f"{number:.6f}" for number in setting.mean_sd(key)] if key in setting.values else ["", ""]
        writer.writerow([setting.label, len(setting.seeds), *cells])
    write_whole(path, table.getvalue())


def _print_headline(out: Console, summary: Summary) -> None:
    keys = headline_keys(summary)
    table = dense_table("setting", "n", *map(metric_title, keys), title="means over the classes, %")
    for setting in summary.settings:
        table.add_row(setting.label, str(len(setting.seeds)), *(percent(*setting.mean_sd(key)) for key in keys))
    out.print(table)


def _print_each_class(out: Console, summary: Summary, metric: str) -> None:
    """One row a class, one column a setting; of more than six settings, the best three."""
    settings, split = summary.settings, summary.study.split
    title = f"{metric}, %"
    if len(settings) > 6:
        settings = sorted(settings, key=lambda setting: -setting.mean_sd(f"{split}/f1/macro")[0])[:3]
        title += ", of the three settings with the best macro F1"
    table = dense_table("class", *(setting.label for setting in settings), title=title)
    for name in summary.settings[0].classes:
        table.add_row(name, *(percent(*setting.mean_sd(f"{split}/{metric}/{name}")) for setting in settings))
    out.print(table)


def _print_verdicts(out: Console, summary: Summary) -> None:
    family = summary.family
    assert family is not None
    title = f"minus {family.baseline}, in points, family of {family.size} comparisons"
    table = dense_table("setting", "metric", "difference", "verdict", "", title=title)
    for verdict in family.verdicts:
        cells = (verdict.setting, metric_title(verdict.metric), format_interval(verdict), verdict.word, verdict.hint)
        table.add_row(*cells)
    out.print(table)


def markdown(summary: Summary, confirmations: Sequence[Confirmation] = ()) -> str:
    """Of each confirmation and then of the search: the answer, the table of means and the verdicts."""
    parts = [f"# {escape_markdown(summary.name)}"]
    for confirmation in confirmations:
        parts += [f"## {escape_markdown(confirmation.summary.name)}", *_parts(confirmation.summary)]
        parts.append(confirmation.status_told)
    if confirmations:
        parts.append("## The search")
    return "\n\n".join([*parts, *_parts(summary)]) + "\n"


def _parts(summary: Summary) -> list[str]:
    compared = summary.family is not None and summary.family.verdicts
    return [
        "\n".join(map(escape_markdown, summary.answer)),
        means(summary),
        *([markdown_verdicts(summary)] if compared else []),
    ]


def means(summary: Summary) -> str:
    """A row a setting: means over the classes, with their spread over the seeds."""
    keys = headline_keys(summary)
    table = _table(
        ["setting", "n", *map(metric_title, keys)],
        [[s.label, str(len(s.seeds)), *(percent(*s.mean_sd(key)) for key in keys)] for s in summary.settings],
    )
    return f"{escape_markdown(summary.heading)}, in percent:\n\n{table}"


def markdown_verdicts(summary: Summary) -> str:
    """A row a comparison of the declared family."""
    family = summary.family
    assert family is not None
    table = _table(
        ["setting", "metric", "difference", "verdict", "to be shown"],
        [[v.setting, metric_title(v.metric), format_interval(v), v.word, v.hint] for v in family.verdicts],
    )
    return (
        f"Minus {escape_markdown(family.baseline)}, in points; {escape_markdown(family.method)}\n\n{table}\n\n"
        "Conditional on this split and these evaluation images."
    )


def escape_markdown(text: str) -> str:
    """A name that shall be no markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text.replace("\n", " "))


def _table(columns: list[str], rows: list[list[str]]) -> str:
    escaped = [[escape_markdown(cell) for cell in row] for row in [columns, *rows]]
    divider = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return "\n".join(
        [f"| {' | '.join(escaped[0])} |", f"|{divider}|", *(f"| {' | '.join(row)} |" for row in escaped[1:])]
    )
