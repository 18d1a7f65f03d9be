"""A figure of the page: Plotly's traces and layout, the reader's choices, and the same numbers as a table."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Trace = dict[str, Any]
"""A Plotly trace. Its `meta` maps a choice's name to the option for which it is drawn; without, it is always drawn.

Colours are names such as "@c0", which the page replaces by the colours of its theme.
"""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
COLOURS = 8
"""@c0 ... @c7: Okabe & Ito's palette, which colour-blind readers can tell apart; symbol or dash shows the same."""
LONGEST_TICK = 18
"""Characters of a name on an axis."""


@dataclass
class Table:
    """Columns and rows of text; the first cell of a row is its heading. `marked` are indices of rows to highlight."""

    columns: list[str]
    rows: list[list[str]]
    marked: list[int] = field(default_factory=list)


@dataclass
class Choice:
    """A choice of the reader: from a list, or on a slider if `slider` is true. `start` is the first option's index."""

    name: str
    label: str
    options: list[str]
    start: int = 0
    slider: bool = False


@dataclass
class Figure:
    """A figure, its controls and its table.

    Args:
        name: unique in the page; letters and hyphens.
        title: the heading.
        caption: how to read the figure, in a sentence or two.
        traces, layout: Plotly's.
        table: the numbers, for readers who cannot see the figure.
        choices: the reader's controls.
        panels: titles of panels of equal size, on axes x, x2, ...; [] for a figure without panels.
        panel_width: minimum width of a panel in pixels.
        panel_height: height of a panel, or of the figure, in pixels.
    """

    name: str
    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any]
    table: Table
    choices: list[Choice] = field(default_factory=list)
    panels: list[str] = field(default_factory=list)
    panel_width: int = 190
    panel_height: int = 380

    def json(self) -> str:
        """Return the input of the page's script; safe inside a script element."""
        titles = {"annotations": list(map(_panel_title, self.panels, itertools.count()))} if self.panels else {}
        content = {
            "traces": self.traces, "layout": self.layout | titles, "choices": list(map(vars, self.choices)),
            "panels": len(self.panels), "panelWidth": self.panel_width, "panelHeight": self.panel_height,
            "title": self.title,
        }  # fmt: skip
        return script_json(content)


def _panel_title(text: str, panel: int) -> dict[str, Any]:
    """Return the annotation above a panel, counted from 0."""
    axis = axis_number(panel)
    return {
        "text": escape_tags(text), "showarrow": False, "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom",
        "xref": f"x{axis} domain", "yref": f"y{axis} domain", "font": {"size": 13},
    }  # fmt: skip


def script_json(content: Any) -> str:
    """Return JSON for a script element: numbers of five digits, no NaN, no character that could end the element."""
    text = json.dumps(_clean(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def escape_tags(text: str) -> str:
    """Escape a name for Plotly, which reads some HTML tags as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def number(value: float) -> str:
    """Format a number for a table: four decimals, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.4f}"


def colour(index: int) -> str:
    """Return the colour of the index-th series; colours repeat after `COLOURS`."""
    return f"@c{index % COLOURS}"


def marker(index: int, size: int) -> dict[str, Any]:
    """Return the marker of the index-th series, `size` in pixels."""
    return {"symbol": SYMBOLS[index % len(SYMBOLS)], "color": colour(index), "size": size}


def axis_number(panel: int) -> str:
    """Return the number in the names of a panel's axes: "" for panel 0, then "2", "3", ..."""
    return str(panel + 1) if panel else ""


def axes(panel: int) -> dict[str, str]:
    """Return the axes of a trace in a panel, counted from 0."""
    return {axis: f"{axis[0]}{axis_number(panel)}" for axis in ("xaxis", "yaxis")}


def axis_layout(panels: int, x: dict[str, Any], y: dict[str, Any], linked: bool = False) -> dict[str, Any]:
    """Return the layout of equal axes in each panel; if `linked`, zooming one panel zooms all."""
    layout: dict[str, Any] = {}
    for panel in range(panels):
        for name, axis in (("x", x), ("y", y)):
            layout[f"{name}axis{axis_number(panel)}"] = axis | ({"matches": name} if linked and panel else {})
    return layout


def categories(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of names, in their order; its labels are cut at `LONGEST_TICK` characters."""
    escaped = [escape_tags(name) for name in names]
    ticks = [escape_tags(name if len(name) <= LONGEST_TICK else f"{name[: LONGEST_TICK - 1]}…") for name in names]
    return {"type": "category", "categoryarray": escaped, "tickvals": escaped, "ticktext": ticks}
