"""A summary as terminal tables, summary.csv, report.md and the tables of the page."""

import csv
import io
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from losslab.report.figure import Table
from losslab.report.statistics import half_width
from losslab.report.summary import Confirmation, Summary, column_title, format_difference, format_interval
from losslab.report.verdicts import Family, Verdict
from losslab.run import console, dense_table, write_whole
from losslab.study import SettingResults, format_mean, short_names

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
    """Return one row per comparison of the family; margins and the spread over images have a column if there are any.

    "P(better)" is the number of seeds at which the setting is better, and the interval of the probability of that.
    """
    cells = [
        {
            "setting": verdict.setting, "metric": column_title(verdict.metric), "difference": format_interval(verdict),
            "± images": _format_images(family, verdict), "margin": _format_margin(verdict), "verdict": verdict.word,
            "P(better)": _format_better(verdict), "collapsed": _format_collapsed(verdict), "to be shown": verdict.hint,
        }
        for verdict in family.verdicts
    ]  # fmt: skip
    empty = {name for name in ("± images", "margin") if all(row[name] == "–" for row in cells)}
    rows = [{name: cell for name, cell in row.items() if name not in empty} for row in cells]
    return Table([*rows[0]], [[*row.values()] for row in rows])


def _format_better(verdict: Verdict) -> str:
    """Format at how many seeds the setting is better, and the exact 95 % interval of the probability of that."""
    low, high = verdict.better_interval
    return f"{verdict.better_seeds}/{verdict.seeds}: {100 * low:.0f}–{100 * high:.0f} %"


def _format_images(family: Family, verdict: Verdict) -> str:
    """Format the spread of a mean difference over the test images, in points; "–" if it is not known."""
    spread = family.images.get((verdict.setting, verdict.metric))
    return "–" if spread is None else f"{100 * spread:.2f}"


def _format_margin(verdict: Verdict) -> str:
    return "–" if verdict.margin is None else f"{100 * verdict.margin:g}"


def _format_collapsed(verdict: Verdict) -> str:
    return "–" if verdict.collapsed is None else f"{verdict.collapsed}/{verdict.seeds}"


def collapse_text(family: Family) -> str:
    """Say at how many seeds each setting collapsed, and what it means that one never did; "" if it is not known."""
    known = {verdict.setting: verdict.collapsed for verdict in family.verdicts}
    of_baseline = {verdict.baseline_collapsed for verdict in family.verdicts}
    known |= {family.baseline: of_baseline.pop()} if len(of_baseline) == 1 else {}
    found = ", ".join(f"{setting} at {count} of {family.seeds} seeds" for setting, count in known.items() if count)
    none = next((verdict.collapses for verdict in family.verdicts if verdict.collapsed == 0), "")
    others = f"{'any other' if found else 'each'} setting {none}" if none else ""
    parts = "; ".join(filter(None, (found, others)))
    return f"Collapses (a class has recall 0): {parts}." if parts else ""


def choices_table(summary: Summary) -> Table | None:
    """Return what each seed's tuning chose, a row per setting and tuned value; None where no seed tunes.

    A star marks the lowest or the highest value that was tried for the setting at this seed, if these are known:
    a confirmation's test results hold the chosen ones alone.
    """
    names = short_names(dict.fromkeys(path for setting in summary.settings for path in setting.choices))
    if not names:
        return None
    groups = {str(summary.study.candidate(group[0])): group for group in summary.study.groups(summary.tried)}
    seeds = sorted({seed for setting in summary.settings for seed in setting.seeds})
    rows = []
    for setting in summary.settings:
        same = [s for s in groups.get(str(summary.study.candidate(setting)), []) if not s.choices]
        for path, values in setting.choices.items():
            cells = {}
            for seed, value in zip(setting.seeds, values, strict=True):
                tried = {s.varied[path] for s in same if seed in s.seeds}
                at_end = len(tried) > 1 and value in (min(tried), max(tried))
                cells[seed] = f"{value:.4g}{'*' * at_end}"
            chosen = [cells.get(seed, "–") for seed in seeds]
            rows.append([setting.label, names[path], *chosen, f"{setting.median_choices[path]:.4g}"])
    return Table(["setting", "of", *(f"seed {seed}" for seed in seeds), "median"], rows)


def class_differences(summary: Summary, settings: Sequence[SettingResults], classes: Sequence[str]) -> Table:
    """Return one row per complete setting: Student's paired interval against the baseline for each class."""
    baseline = summary.baseline
    if baseline is None:
        return Table([], [])
    keys = [f"{metric}/{name}" for name in classes for metric in ("precision", "recall")]

    def cell(setting: SettingResults, key: str) -> str:
        difference = np.subtract(setting.values[key], baseline.values[key])  # (seeds,)
        half, mean = half_width(difference.tolist()), float(difference.mean())
        middle, low, high = (format_difference(key, end) for end in (mean, mean - half, mean + half))
        return middle if math.isnan(half) else f"{middle} [{low}, {high}]"

    rows = [[s.label, *(cell(s, f"val/{key}") for key in keys)] for s in settings if s is not baseline]
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
    if (family := summary.family) and family.verdicts:
        tables[f"minus {family.baseline}, in points, family of {family.size} comparisons"] = comparisons_table(family)
    for title, table in tables.items():
        printed = dense_table(*table.columns, title=title)
        for row in table.rows:
            printed.add_row(*row)
        out.print(printed)
    if family is not None and (text := collapse_text(family)):
        out.print(text, highlight=False)
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
    parts = ["\n".join(map(escape_markdown, summary.answer)), markdown_means(summary)]
    if summary.study.split == "val" and (choices := choices_table(summary)) is not None:
        short = Table(["setting", "of", "median", "range", "at an end"], list(map(_shortened, choices.rows)))
        parts.append(f"What the seeds chose, each on its own validation images:\n\n{_markdown_table(short)}")
    compared = summary.family is not None and summary.family.verdicts
    return [*parts, markdown_verdicts(summary)] if compared else parts


def _shortened(row: list[str]) -> list[str]:
    """Return a row of `choices_table` with median, range and number of values at an end, without each seed's value."""
    label, name, *cells, median = row
    values = sorted({cell.rstrip("*") for cell in cells} - {"–"}, key=float)
    return [label, name, median, f"{values[0]} to {values[-1]}", str(sum(cell.endswith("*") for cell in cells))]


def markdown_means(summary: Summary) -> str:
    """Return the heading and the table of means in Markdown."""
    table = _markdown_table(means_table(summary, summary.settings))
    return f"{escape_markdown(summary.heading)}, in percent:\n\n{table}"


def markdown_verdicts(summary: Summary) -> str:
    """Return the method and the comparisons of the family in Markdown, or that there are none."""
    family = summary.family
    if family is None:
        return "No baseline was declared, or it is not finished: nothing is compared."
    if not family.verdicts:
        return escape_markdown(family.method)
    return (
        f"Minus {escape_markdown(family.baseline)}, in points; {escape_markdown(family.method)}\n\n"
        f"{_markdown_table(comparisons_table(family))}\n\n{escape_markdown(verdict_notes(family))}\n\nConditional on "
        "these evaluation images. What the verdicts assume, with the simulations that show it: docs/statistics.md of "
        "losslab's repository."
    )


def escape_markdown(text: str) -> str:
    """Escape Markdown and HTML in a name."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text.replace("\n", " "))


def _markdown_table(table: Table) -> str:
    lines = [f"| {' | '.join(map(escape_markdown, row))} |" for row in (table.columns, *table.rows)]
    return "\n".join([lines[0], f"|{'|'.join(['---', *['---:'] * (len(table.columns) - 1)])}|", *lines[1:]])


def verdict_notes(family: Family) -> str:
    """Return what the columns of the verdicts mean, where they need words: collapses, and the spread over images."""
    images = (
        "± images: the standard deviation of the mean difference, in points, when the test images are drawn again with "
        "replacement; the intervals over the seeds do not contain it."
    )
    better = "P(better): at how many seeds the setting is better, and the exact 95 % interval of the probability of it."
    return " ".join(filter(None, (better, collapse_text(family), images if family.images else "")))


def verdict_table(family: Family | None, shown: Container[str] | None = None) -> dict[str, Any] | None:
    """Return the fields of the page's verdict table, or None without a comparison.

    Args:
        family: of the study.
        shown: the labels of the settings that have a row; None: all.

    Returns:
        `columns`: titles of the metrics; `rows`: label of the setting -> a cell for each metric, whose `bar` holds low,
        mean and high in pixels, or is None; `collapsed`: label -> "0/12", or {} if it is not known; `notes`: what needs
        words. The intervals of a metric share a scale. The rest is the family's.
    """
    if family is None or not family.verdicts:
        return None
    ends = [(v.metric, abs(end)) for v in family.verdicts for end in (v.low, v.high) if math.isfinite(end)]
    widest = {key: max((end for metric, end in ends if metric == key), default=0.0) for key in family.metrics}
    rows: dict[str, list[dict[str, Any]]] = {}
    for verdict in family.verdicts if shown is None else [v for v in family.verdicts if v.setting in shown]:
        rows.setdefault(verdict.setting, []).append(_verdict_cell(family, verdict, widest[verdict.metric]))
    margins = {verdict.metric: _format_margin(verdict) for verdict in family.verdicts if verdict.margin is not None}
    columns = [column_title(key) + (f", margin ±{margins[key]}" if key in margins else "") for key in family.metrics]
    return {
        "baseline": family.baseline, "size": family.size, "method": family.method, "columns": columns, "rows": rows,
        "notes": verdict_notes(family),
        "collapsed": {v.setting: _format_collapsed(v) for v in family.verdicts if v.collapsed is not None},
    }  # fmt: skip


def _verdict_cell(family: Family, verdict: Verdict, widest: float) -> dict[str, Any]:
    bar = None
    if math.isfinite(verdict.high - verdict.low) and widest > 0:
        ends = (verdict.low, verdict.mean, verdict.high)
        bar = [round(HALF_WIDTH + (HALF_WIDTH - 5) * end / widest, 1) for end in ends]
    without = "alike" if verdict.word == "alike" else "none"
    return {
        "word": verdict.word if verdict.decidable else "no verdict",
        "css": without if not verdict.direction else "better" if verdict.better else "worse",
        "interval": format_interval(verdict), "better": _format_better(verdict), "hint": verdict.hint, "bar": bar,
        "images": _format_images(family, verdict) if family.images else "",
    }  # fmt: skip
