"""A summary as terminal tables, summary.csv, report.md and the tables of the page."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from losslab.report.figure import Table
from losslab.report.statistics import half_width
from losslab.report.summary import Confirmation, Summary, column_title, format_difference, format_interval
from losslab.report.verdicts import Family, Verdict
from losslab.run import console, dense_table, write_whole
from losslab.study import SettingResults, format_mean

HEADLINE = ("precision/macro", "recall/macro", "precision/tail", "recall/tail", "f1/macro", "ece")
MOST_COLUMNS = 6
"""Settings in a terminal table of the classes; of more, the three best are shown."""
HALF_WIDTH = 75
"""Half the width of a drawn interval, in pixels."""


def means_table(summary: Summary, settings: Sequence[SettingResults], unit: str = "") -> Table:
    """Return one row per setting: mean and sd over the seeds of the headline metrics and of the monitored one.

    Args:
        summary: of the study. A metric that one of its settings lacks has no column.
        settings: the rows, in order.
        unit: added to the name of each metric that is in percent; a loss is in its own units.
    """
    split = summary.study.split
    keys = [
        f"{split}/{metric}"
        for metric in HEADLINE
        # A class may be named "tail": its metrics are not the group's.
        if all(f"{split}/{metric}" in s.values and metric.split("/")[-1] not in s.classes for s in summary.settings)
    ]
    if summary.study.monitor not in keys:
        keys.append(summary.study.monitor)
    rows = [[s.label, str(len(s.seeds)), *(format_mean(key, *s.mean_sd(key)) for key in keys)] for s in settings]
    return Table(["setting", "n", *(column_title(key, unit) for key in keys)], rows)


def classes_table(summary: Summary, settings: Sequence[SettingResults], metric: str) -> Table:
    """Return one row per class, one column per setting: "precision" or "recall" in percent."""
    keys = {name: f"{summary.study.split}/{metric}/{name}" for name in summary.settings[0].classes}
    rows = [[name, *(format_mean(key, *s.mean_sd(key)) for s in settings)] for name, key in keys.items()]
    return Table(["class", *(setting.label for setting in settings)], rows)


def comparisons_table(family: Family) -> Table:
    """Return one row per comparison of the family."""
    rows = [[v.setting, column_title(v.metric), format_interval(v), v.word, v.hint] for v in family.verdicts]
    return Table(["setting", "metric", "difference", "verdict", "to be shown"], rows)


def class_differences(summary: Summary) -> Table:
    """Return one row per complete setting: Student's paired interval against the baseline for every class."""
    baseline = summary.baseline
    if baseline is None:
        return Table([], [])
    keys = [f"{metric}/{name}" for name in baseline.classes for metric in ("precision", "recall")]

    def cell(setting: SettingResults, key: str) -> str:
        difference = np.subtract(setting.values[key], baseline.values[key])  # (seeds,)
        half, mean = half_width(difference.tolist()), float(difference.mean())
        middle, low, high = (format_difference(key, end) for end in (mean, mean - half, mean + half))
        return middle if math.isnan(half) else f"{middle} [{low}, {high}]"

    rows = [[s.label, *(cell(s, f"val/{key}") for key in keys)] for s in summary.complete if s is not baseline]
    return Table(["setting", *(key.replace("/", " ", 1) for key in keys)], rows)


def show_summary(summary: Summary, folder: Path) -> None:
    """Print the summary, and write summary.csv into the study's folder."""
    _write_csv(folder / "summary.csv", summary)
    out = console()
    out.print(f"\n{summary.heading}", highlight=False)
    tables = {"means over the classes, %": means_table(summary, summary.settings)}
    settings, note = summary.settings, ""
    if len(settings) > MOST_COLUMNS:
        settings = sorted(settings, key=lambda setting: -setting.mean_sd(f"{summary.study.split}/f1/macro")[0])[:3]
        note = ", of the three settings with the best macro F1"
    tables |= {f"{m}, %{note}": classes_table(summary, settings, m) for m in ("precision", "recall")}
    if family := summary.family:
        tables[f"minus {family.baseline}, in points, family of {family.size} comparisons"] = comparisons_table(family)
    for title, table in tables.items():
        printed = dense_table(*table.columns, title=title)
        for row in table.rows:
            printed.add_row(*row)
        out.print(printed)
    for sentence in summary.answer:
        out.print(sentence, highlight=False)


def _write_csv(path: Path, summary: Summary) -> None:
    """Write a comment line, then one row per setting: mean and sd of every metric, empty if the setting lacks it."""
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


def markdown(summary: Summary, confirmations: Sequence[Confirmation] = ()) -> str:
    """Return report.md: answer, means and verdicts, first of each confirmation, then of the search."""
    parts = [f"# {escape_markdown(summary.name)}"]
    for confirmation in confirmations:
        parts += [f"## {escape_markdown(confirmation.summary.name)}", *_markdown_parts(confirmation.summary)]
        parts += filter(None, (escape_markdown(confirmation.choice_text), confirmation.status_text))
    if confirmations:
        parts.append("## The search")
    return "\n\n".join([*parts, *_markdown_parts(summary)]) + "\n"


def _markdown_parts(summary: Summary) -> list[str]:
    compared = summary.family is not None and summary.family.verdicts
    parts = ["\n".join(map(escape_markdown, summary.answer)), markdown_means(summary)]
    return [*parts, markdown_verdicts(summary)] if compared else parts


def markdown_means(summary: Summary) -> str:
    """Return the heading and the table of means in Markdown."""
    table = _markdown_table(means_table(summary, summary.settings))
    return f"{escape_markdown(summary.heading)}, in percent:\n\n{table}"


def markdown_verdicts(summary: Summary) -> str:
    """Return the method and the comparisons of the family in Markdown; the summary must have a family."""
    family = summary.family
    assert family is not None
    return (
        f"Minus {escape_markdown(family.baseline)}, in points; {escape_markdown(family.method)}\n\n"
        f"{_markdown_table(comparisons_table(family))}\n\nConditional on this split and these evaluation images."
    )


def escape_markdown(text: str) -> str:
    """Escape Markdown and HTML in a name."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text.replace("\n", " "))


def _markdown_table(table: Table) -> str:
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in (table.columns, *table.rows)]
    return "\n".join([lines[0], f"|{'|'.join(['---', *['---:'] * (len(table.columns) - 1)])}|", *lines[1:]])


def verdict_table(family: Family | None) -> dict[str, Any] | None:
    """Return the fields of the page's verdict table, or None without a comparison.

    Returns:
        `columns`: titles of the metrics; `rows`: label of the setting -> a cell for each metric, whose `bar` holds low,
        mean and high in pixels, or is None. The intervals of a metric share a scale. The rest is the family's.
    """
    if family is None or not family.verdicts:
        return None
    ends = [(v.metric, abs(end)) for v in family.verdicts for end in (v.low, v.high) if math.isfinite(end)]
    widest = {key: max((end for metric, end in ends if metric == key), default=0.0) for key in family.metrics}
    rows: dict[str, list[dict[str, Any]]] = {}
    for verdict in family.verdicts:
        rows.setdefault(verdict.setting, []).append(_verdict_cell(verdict, widest[verdict.metric]))
    columns = list(map(column_title, family.metrics))
    return {
        "baseline": family.baseline, "size": family.size, "method": family.method, "columns": columns, "rows": rows,
    }  # fmt: skip


def _verdict_cell(verdict: Verdict, widest: float) -> dict[str, Any]:
    bar = None
    if math.isfinite(verdict.high - verdict.low) and widest > 0:
        ends = (verdict.low, verdict.mean, verdict.high)
        bar = [round(HALF_WIDTH + (HALF_WIDTH - 5) * end / widest, 1) for end in ends]
    return {
        "word": verdict.word if verdict.decidable else "no verdict",
        "css": "none" if not verdict.direction else "better" if verdict.better else "worse",
        "interval": format_interval(verdict), "hint": verdict.hint, "bar": bar,
    }  # fmt: skip
