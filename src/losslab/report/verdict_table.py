"""The verdicts as a table: a row a setting, a column a metric, each cell with its interval drawn."""

import math
from typing import NamedTuple

import numpy as np

from losslab.report.figure import Table
from losslab.report.precision_recall_figures import half_width
from losslab.report.study_summary import Summary, interval, points
from losslab.report.verdicts import Family, Verdict

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
    return VerdictCell(word, css, interval(verdict), verdict.hint, bar)


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
