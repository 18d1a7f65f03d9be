"""Figures of each class's precision and recall: against the varied number, and as a path in their plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from losslab.report.figure import Choice, Figure, Table, Trace, axes, axis_layout, colour, escape_tags, marker
from losslab.report.statistics import half_width, mean_and_spread
from losslab.study import GROUPS, SettingResults

DASHES = {"precision": "solid", "recall": "dash"}
COLOURS = {"precision": 0, "recall": 1}
MOST_LABELS = 12
"""Points of a path up to which each has its setting beside it."""


def varied_number(settings: Sequence[SettingResults]) -> str | None:
    """Return the first path whose value is a number in every setting and differs between settings; or None."""
    for path in settings[0].varied:
        values = [setting.varied.get(path) for setting in settings]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if numeric and (len({*values}) > 1 or len(settings) == 1):
            return path
    return None


def precision_recall_by_class(settings: Sequence[SettingResults]) -> Figure:
    """Draw a panel for the macro mean, each group of classes and each class; bands are the mean's 95 % interval."""
    path = varied_number(settings)
    names = _panel_names(settings[0])
    arms = _group_by_arm(settings, path)
    traces: list[Trace] = []
    for panel, name in enumerate(names):
        if path is None:
            traces += [_point(setting, index, name, panel) for index, setting in enumerate(settings)]
            continue
        for arm in range(len(arms)):
            for metric in COLOURS:
                traces += _line(arms, arm, path, metric, name, panel)
    layout = axis_layout(len(names), {} if path else {"type": "category"}, {"hoverformat": ".4f"}, linked=True)
    layout["scattermode"] = "overlay" if path else "group"
    marks = (
        "Solid with circles: precision. Dashed with squares: recall. Bands (or bars)"
        if path
        else "Each mark is a setting. Bars"
    )
    columns = [(metric, name) for name in names for metric in COLOURS]

    def cell(values: list[float]) -> str:
        return mean_and_spread(values, half_width(values))

    rows = [[s.label, str(len(s.seeds)), *(cell(s.values[f"val/{m}/{name}"]) for m, name in columns)] for s in settings]
    titles = [name if name in ("macro", *GROUPS) else f"class {name}" for name in names]
    return Figure(
        "precision-recall",
        f"Precision and recall against {path.rsplit('.', 1)[-1]}" if path else "Precision and recall of each setting",
        f"One panel per class. {marks} are 95 % intervals of the mean over seeds, each for itself; they show where a "
        "mean lies, and not whether two settings differ: the verdicts do that.",
        traces, layout, Table(["setting", "n", *(f"{metric} {name}" for metric, name in columns)], rows),
        panels=titles, panel_height=200,
    )  # fmt: skip


def precision_recall_plane(settings: Sequence[SettingResults]) -> Figure:
    """Draw each class as a path of its means; the chosen class is highlighted, with its settings named."""
    path = varied_number(settings)
    names = _panel_names(settings[0])
    traces: list[Trace] = []
    for highlighted in (False, True):
        for name in names:
            for group in _group_by_arm(settings, path):
                recall = [s.mean_sd(f"val/recall/{name}")[0] for s in group]
                precision = [s.mean_sd(f"val/precision/{name}")[0] for s in group]
                mode = "lines+markers" if path and _is_path(group, path) else "markers"
                trace: Trace = {
                    "type": "scatter", "x": recall, "y": precision, "name": escape_tags(name), "showlegend": False,
                    "mode": mode, "opacity": 0.5, "hoverinfo": "skip",
                    "line": {"color": "@muted", "width": 1}, "marker": {"color": "@muted", "size": 4},
                }  # fmt: skip
                if highlighted:
                    trace |= {
                        "mode": f"{mode}+text" if len(group) <= MOST_LABELS else mode,
                        "text": [f"{s.varied[path]:.4g}" if path else escape_tags(s.label) for s in group],
                        "textposition": [("top center", "bottom center")[i % 2] for i in range(len(group))],
                        "textfont": {"size": 12}, "meta": {"class": name}, "opacity": 1, "hoverinfo": "all",
                        "customdata": [escape_tags(s.label) for s in group], "cliponaxis": False,
                        "hovertemplate": "%{fullData.name}, %{customdata}<br>recall %{x:.4f}<br>precision %{y:.4f}"
                        "<extra></extra>",
                        "line": {"color": "@c0", "width": 2.5}, "marker": {"color": "@c0", "size": 9},
                    }  # fmt: skip
                traces.append(trace)
    rows = [
        [name, setting.label, *(f"{setting.mean_sd(f'val/{m}/{name}')[0]:.4f}" for m in COLOURS)]
        for name in names
        for setting in settings
    ]
    return Figure(
        "plane", "The precision–recall plane",
        "Each grey path is a class; its points are the settings in order. The class that you choose is highlighted, "
        "with the settings' numbers. A path to the right and down buys recall with precision; up and to the right is "
        "better in both.",
        traces, {"xaxis": {"title": {"text": "recall"}}, "yaxis": {"title": {"text": "precision"}}},
        Table(["class", "setting", *COLOURS], rows), [Choice("class", "Class", names)], panel_height=460,
    )  # fmt: skip


def _panel_names(setting: SettingResults) -> list[str]:
    """Return "macro", the groups of classes and the classes."""
    groups = [group for group in GROUPS if f"val/recall/{group}" in setting.values and group not in setting.classes]
    return ["macro", *groups, *setting.classes]


def _group_by_arm(settings: Sequence[SettingResults], path: str | None) -> list[list[SettingResults]]:
    """Return the settings of each arm, ordered by the varied number; one group if no number varies."""
    if path is None:
        return [list(settings)]
    arms = dict.fromkeys(setting.arm for setting in settings)
    return [sorted((s for s in settings if s.arm == arm), key=lambda s: float(s.varied[path])) for arm in arms]


def _is_path(group: Sequence[SettingResults], path: str) -> bool:
    # If more than this number varies, as in a search, a line between two settings would have no meaning.
    return len(group[0].varied) == 1 and len({setting.varied[path] for setting in group}) == len(group)


def _point(setting: SettingResults, index: int, name: str, panel: int) -> Trace:
    """Return the trace of one setting's precision and recall, for settings that no number orders."""
    keys = [f"val/{metric}/{name}" for metric in COLOURS]
    means = np.array([setting.mean_sd(key)[0] for key in keys])  # (2,)
    return {
        "type": "scatter", "mode": "markers", "x": list(COLOURS), "y": means.tolist(),
        "name": escape_tags(setting.label),
        "error_y": _bars(means, np.array([half_width(setting.values[key]) for key in keys])),
        "marker": marker(index, 8), "legendgroup": str(index), "showlegend": panel == 0,
        "hovertemplate": "%{x} %{y:.4f}<extra>%{fullData.name}</extra>", **axes(panel),
    }  # fmt: skip


def _bars(means: np.ndarray, halves: np.ndarray) -> dict[str, Any]:
    """Return error bars cut at 0 and 1: for two seeds, Student's interval is many times wider than that."""
    up, down = np.minimum(np.nan_to_num(halves), 1 - means), np.minimum(np.nan_to_num(halves), means)
    return {
        "type": "data", "array": up.tolist(), "arrayminus": down.tolist(), "symmetric": False, "thickness": 1,
        "width": 2,
    }  # fmt: skip


def _line(arms: list[list[SettingResults]], arm: int, path: str, metric: str, name: str, panel: int) -> list[Trace]:
    """Return the traces of one arm's precision or recall: a line with its band, or single points with error bars."""
    group, key, index = arms[arm], f"val/{metric}/{name}", COLOURS[metric] + 2 * arm
    x = [setting.varied[path] for setting in group]
    means = np.array([setting.mean_sd(key)[0] for setting in group])  # (settings,)
    halves = np.array([half_width(setting.values[key]) for setting in group])
    joined = _is_path(group, path)
    trace: Trace = {
        "type": "scatter", "x": x, "y": means.tolist(), "mode": "lines+markers" if joined else "markers",
        "line": {"color": colour(index), "dash": DASHES[metric], "width": 2},
        "marker": marker(index, 6), "name": escape_tags(f"{group[0].arm} {metric}" if len(arms) > 1 else metric),
        "legendgroup": f"{arm}{metric}", "showlegend": panel == 0,
        "customdata": [escape_tags(s.label) for s in group],
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
