"""Precision and recall of each class against the varied number, and as a path through their plane."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from losslab.report.figure import (
    SYMBOLS,
    Choice,
    Figure,
    Table,
    Trace,
    axes,
    axis_layout,
    colour,
    panel_title,
    plain,
)
from losslab.study import GROUPS, SettingResults

DASHES = {"precision": "solid", "recall": "dash"}
COLOURS = {"precision": 0, "recall": 1}


def varied_number(settings: Sequence[SettingResults]) -> str | None:
    """The first path whose value is a number in every setting, and not the same in all; or None."""
    for path in settings[0].varied:
        values = [setting.varied.get(path) for setting in settings]
        if all(map(_is_number, values)) and (len({*values}) > 1 or len(settings) == 1):
            return path
    return None


def half_width(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval for the mean over the seeds; NaN for one seed."""
    n = len(values)
    return float(_quantile(n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")


@functools.cache
def _quantile(degrees: int) -> float:
    return float(stats.t.ppf(0.975, degrees))


def precision_recall_by_class(settings: Sequence[SettingResults]) -> Figure:
    """A panel for the macro mean, each group of classes and each class; bands are the mean's 95 % interval."""
    path = varied_number(settings)
    labels = _shown(settings[0])
    traces: list[Trace] = []
    for panel, name in enumerate(labels):
        if path is None:
            traces += [_point(setting, index, name, panel) for index, setting in enumerate(settings)]
            continue
        for group in _lines(settings, path):
            for metric in COLOURS:
                traces += _line(group, path, metric, name, panel, settings)
    layout = axis_layout(len(labels), {} if path else {"type": "category"}, {"hoverformat": ".4f"})
    layout["scattermode"] = "overlay" if path else "group"
    layout["annotations"] = [
        panel_title(name if name in ("macro", *GROUPS) else f"class {name}", panel) for panel, name in enumerate(labels)
    ]
    marks = (
        "Solid with circles: precision. Dashed with squares: recall. Bands (or bars)"
        if path
        else "Each mark is a setting. Bars"
    )
    table = Table(
        ["setting", "n", *(f"{metric} {name}" for name in labels for metric in COLOURS)],
        [
            [s.label, str(len(s.seeds)), *(_cell(s.values[f"val/{m}/{name}"]) for name in labels for m in COLOURS)]
            for s in settings
        ],
    )
    return Figure(
        "precision-recall",
        f"Precision and recall against {path.rsplit('.', 1)[-1]}" if path else "Precision and recall of each setting",
        f"One panel a class. {marks} are 95 % intervals of the mean over seeds, each for itself; they tell where a "
        "mean lies, and not whether two settings differ: that is what the verdicts are for.",
        traces,
        layout,
        table,
        panels=len(labels),
        panel_height=200,
    )


def precision_recall_plane(settings: Sequence[SettingResults]) -> Figure:
    """Each class as a path of its means; one is highlighted, with its settings named."""
    path = varied_number(settings)
    labels = _shown(settings[0])
    traces: list[Trace] = []
    for highlighted in (False, True):
        for name in labels:
            for group in _lines(settings, path):
                recall = [s.mean_sd(f"val/recall/{name}")[0] for s in group]
                precision = [s.mean_sd(f"val/precision/{name}")[0] for s in group]
                mode = "lines+markers" if path and _is_path(group, path) else "markers"
                trace: Trace = {
                    "type": "scatter", "x": recall, "y": precision, "name": plain(name), "showlegend": False,
                    "mode": mode, "opacity": 0.5, "hoverinfo": "skip",
                    "line": {"color": "@muted", "width": 1}, "marker": {"color": "@muted", "size": 4},
                }  # fmt: skip
                if highlighted:
                    trace |= {
                        "mode": f"{mode}+text" if len(group) <= 12 else mode,
                        "text": [plain(_short(s, path)) for s in group],
                        "textposition": [("top center", "bottom center")[i % 2] for i in range(len(group))],
                        "textfont": {"size": 12}, "meta": {"class": name}, "opacity": 1, "hoverinfo": "all",
                        "customdata": [plain(s.label) for s in group], "cliponaxis": False,
                        "hovertemplate": "%{fullData.name}, %{customdata}<br>recall %{x:.4f}<br>precision %{y:.4f}"
                        "<extra></extra>",
                        "line": {"color": "@c0", "width": 2.5}, "marker": {"color": "@c0", "size": 9},
                    }  # fmt: skip
                traces.append(trace)
    rows = [
        [name, setting.label, *(f"{setting.mean_sd(f'val/{m}/{name}')[0]:.4f}" for m in COLOURS)]
        for name in labels
        for setting in settings
    ]
    return Figure(
        "plane",
        "The precision–recall plane",
        "Each path is a class (grey), its points the settings in order, with their numbers on the highlighted one; "
        "choose which that is. A path to the right and down buys recall with precision; up and to the right is better "
        "in both.",
        traces,
        {"xaxis": {"title": {"text": "recall"}}, "yaxis": {"title": {"text": "precision"}}},
        Table(["class", "setting", *COLOURS], rows),
        [Choice("class", "Class", labels)],
        panel_height=460,
    )


def _shown(setting: SettingResults) -> list[str]:
    groups = [group for group in GROUPS if f"val/recall/{group}" in setting.values and group not in setting.classes]
    return ["macro", *groups, *setting.classes]


def _lines(settings: Sequence[SettingResults], path: str | None) -> list[list[SettingResults]]:
    """The settings of each arm, ordered by the varied number."""
    if path is None:
        return [list(settings)]
    arms = dict.fromkeys(setting.arm for setting in settings)
    return [sorted((s for s in settings if s.arm == arm), key=lambda s: float(s.varied[path])) for arm in arms]


def _is_path(group: Sequence[SettingResults], path: str) -> bool:
    # Where two settings share a number (a search over more than it), a line between them would say nothing.
    return len(group[0].varied) == 1 and len({setting.varied[path] for setting in group}) == len(group)


def _point(setting: SettingResults, index: int, name: str, panel: int) -> Trace:
    """Precision and recall of one setting, for settings that no number orders."""
    keys = [f"val/{metric}/{name}" for metric in COLOURS]
    means = np.array([setting.mean_sd(key)[0] for key in keys])
    return {
        "type": "scatter", "mode": "markers", "x": list(COLOURS), "y": means.tolist(), "name": plain(setting.label),
        "error_y": _bars(means, np.array([half_width(setting.values[key]) for key in keys])),
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8, "color": colour(index)},
        "legendgroup": str(index), "showlegend": panel == 0,
        "hovertemplate": "%{x} %{y:.4f}<extra>%{fullData.name}</extra>", **axes(panel),
    }  # fmt: skip


def _bars(means: np.ndarray, halves: np.ndarray) -> dict[str, Any]:
    """Error bars that end at 0 and 1: of two seeds, Student's interval is many times as wide."""
    up, down = np.minimum(np.nan_to_num(halves), 1 - means), np.minimum(np.nan_to_num(halves), means)
    return {
        "type": "data", "array": up.tolist(), "arrayminus": down.tolist(), "symmetric": False, "thickness": 1,
        "width": 2,
    }  # fmt: skip


def _line(
    group: list[SettingResults],
    path: str,
    metric: str,
    name: str,
    panel: int,
    settings: Sequence[SettingResults],
) -> list[Trace]:
    key = f"val/{metric}/{name}"
    x = [setting.varied[path] for setting in group]
    means = np.array([setting.mean_sd(key)[0] for setting in group])
    halves = np.array([half_width(setting.values[key]) for setting in group])
    arms = list(dict.fromkeys(setting.arm for setting in settings))
    several = len(arms) > 1
    arm = arms.index(group[0].arm) if several else 0
    index = COLOURS[metric] + (2 * arm if several else 0)
    joined = _is_path(group, path)
    trace: Trace = {
        "type": "scatter", "x": x, "y": means.tolist(), "mode": "lines+markers" if joined else "markers",
        "line": {"color": colour(index), "dash": DASHES[metric], "width": 2},
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6, "color": colour(index)},
        "name": plain(f"{group[0].arm} {metric}" if several else metric),
        "legendgroup": f"{arm}{metric}", "showlegend": panel == 0,
        "customdata": [plain(s.label) for s in group],
        "hovertemplate": "%{customdata}<br>%{y:.4f}<extra>%{fullData.name}</extra>",
        **axes(panel),
    }  # fmt: skip
    if not joined:
        trace["error_y"] = _bars(means, halves)
        return [trace]
    if np.isnan(halves).any():
        return [trace]
    band: Trace = {
        "type": "scatter", "x": [*x, *x[::-1]],
        "y": np.clip([*(means + halves), *(means - halves)[::-1]], 0, 1).tolist(),
        "fill": "toself", "fillcolor": f"{colour(index)}-band", "line": {"width": 0}, "mode": "lines",
        "hoverinfo": "skip", "showlegend": False, "legendgroup": f"{arm}{metric}", **axes(panel),
    }  # fmt: skip
    return [band, trace]


def _cell(values: Sequence[float]) -> str:
    half = half_width(values)
    return f"{np.mean(values):.4f}" + ("" if np.isnan(half) else f" ± {half:.4f}")


def _short(setting: SettingResults, path: str | None) -> str:
    return f"{setting.varied[path]:.4g}" if path else setting.label


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
