"""A figure of the report: Plotly's traces and layout as plain values, the reader's choices, and the same as a table."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Trace = dict[str, Any]
"""A Plotly trace. Its `meta`, name -> value, says for which of the reader's choices it is shown; without, always.

Colours are names, "@c0" and so on, which the page replaces by those of its theme.
"""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
COLOURS = 8
"""@c0 ... @c7: Okabe & Ito's palette, which colour-blind readers tell apart; shape or dash says the same."""
LONGEST_TICK = 18


@dataclass
class Table:
    """Columns and rows of text; the first cell of a row is its heading."""

    columns: list[str]
    rows: list[list[str]]


@dataclass
class Choice:
    """Something that the reader chooses: from a list, or on a slider where `slider` is true."""

    name: str
    label: str
    options: list[str]
    start: int = 0
    slider: bool = False


@dataclass
class Figure:
    """What the page draws.

    Args:
        name: unique in the page; letters and hyphens.
        title: what it shows.
        caption: how to read it, a sentence or two.
        traces, layout: Plotly's.
        table: the numbers, for those who cannot see the figure.
        choices: what the reader may choose.
        panels: how many panels of equal size share the figure, on axes x, x2, ...; 0 for a figure without panels.
        panel_width: pixels below which a panel is not to be squeezed.
        panel_height: pixels of a panel, or of the figure.
    """

    name: str
    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any]
    table: Table
    choices: list[Choice] = field(default_factory=list)
    panels: int = 0
    panel_width: int = 190
    panel_height: int = 380

    def json(self) -> str:
        """What the page's script reads; safe inside a script element."""
        choices = [vars(choice) for choice in self.choices]
        content = {
            "traces": self.traces, "layout": self.layout, "choices": choices, "panels": self.panels,
            "panelWidth": self.panel_width, "panelHeight": self.panel_height, "title": self.title,
        }  # fmt: skip
        return script_json(content)


def script_json(content: Any) -> str:
    """JSON for a script element: numbers of five digits, no NaN, nothing that could end the element."""
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


def plain(text: str) -> str:
    """A name as Plotly shall print it: Plotly takes some tags in a text for markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def categories(names: Sequence[str]) -> dict[str, Any]:
    """An axis of names, in their order; long ones are cut where they stand on it."""
    ticks = [plain(name if len(name) <= LONGEST_TICK else f"{name[: LONGEST_TICK - 1]}…") for name in names]
    return {"type": "category", "categoryarray": list(map(plain, names)), "tickvals": list(map(plain, names)),
            "ticktext": ticks}  # fmt: skip


def panel_title(text: str, panel: int) -> dict[str, Any]:
    """The annotation above a panel, counted from 0."""
    axis = "" if panel == 0 else str(panel + 1)
    return {
        "text": plain(text), "showarrow": False, "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom",
        "xref": f"x{axis} domain", "yref": f"y{axis} domain", "font": {"size": 13},
    }  # fmt: skip


def axes(panel: int) -> dict[str, str]:
    """The axes of a panel's traces, counted from 0."""
    return {"xaxis": f"x{panel + 1}" if panel else "x", "yaxis": f"y{panel + 1}" if panel else "y"}


def axis_layout(panels: int, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """The same axes for each panel; zooming one zooms all."""
    layout: dict[str, Any] = {}
    for panel in range(panels):
        number = str(panel + 1) if panel else ""
        layout[f"xaxis{number}"] = x | ({"matches": "x"} if panel else {})
        layout[f"yaxis{number}"] = y | ({"matches": "y"} if panel else {})
    return layout


def colour(index: int) -> str:
    """The colour of the index-th of several things; they repeat after `COLOURS`."""
    return f"@c{index % COLOURS}"


def numbers(values: Sequence[float], digits: int = 4) -> list[str]:
    """Numbers as a table shows them; a dash for NaN."""
    return ["–" if value is None or math.isnan(value) else f"{value:.{digits}f}" for value in values]
