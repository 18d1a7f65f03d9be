"""The README's picture: tail precision against tail recall, a mark a loss."""

import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from losslab.report.settings import SettingResults
from losslab.report.study_summary import Summary

X, Y = "test/recall/tail", "test/precision/tail"
LOOKS = {"higher": ("#0072B2", "^"), "lower": ("#D55E00", "v"), "not shown": ("#6e7781", "o")}
"""Colour (Okabe & Ito's, for the colour-blind) and marker, by the verdict on the tail's recall."""

STYLE: Any = {"font.size": 9, "svg.hashsalt": "losslab", "svg.fonttype": "path", "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#6e7781", "font.family": "DejaVu Sans"}  # fmt: skip
AWAY = [
    (round(radius * math.cos(math.tau * step / 16)), round(radius * math.sin(math.tau * step / 16)))
    for radius in (7, 14, 22, 32, 44, 58, 74, 92, 112)
    for step in (0, 8, 4, 12, 2, 6, 10, 14, 1, 7, 9, 15, 3, 5, 11, 13)
]
"""Where a label may stand, in points from its mark; the first place that is free is taken."""


def losses_picture(summary: Summary) -> str:
    """An SVG on a white ground, the same bytes for the same numbers.

    Args:
        summary: of a confirmation on data with a tail, with a complete baseline.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 5.6), dpi=72, facecolor="white")
        canvas = FigureCanvasAgg(figure)  # measures text
        axes = figure.add_axes((0.08, 0.09, 0.9, 0.85))
        for setting in summary.settings:
            _mark(axes, summary, setting)
        axes.set_xlabel("recall of the tail, %")
        axes.set_ylabel("precision of the tail, %")
        axes.set_title(
            f"Three rarest of ten digits, test images: mean and sd of {len(summary.declared.seeds)} seeds",
            loc="left", fontsize=10,
        )  # fmt: skip
        base = summary.baseline.label if summary.baseline is not None else ""
        for word, (colour, marker) in LOOKS.items():
            told = f"recall {word}" if word != "not shown" else "no difference in recall shown"
            axes.plot([], [], marker, color=colour, label=f"{told}, against {base}")
        axes.plot([], [], "s", color="black", label=base)
        axes.legend(frameon=False, loc="best", fontsize=8)
        axes.margins(0.08)
        _label(canvas, axes, summary.settings)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _mark(axes: Axes, summary: Summary, setting: SettingResults) -> None:
    (x, x_sd), (y, y_sd) = (setting.mean_sd(key) for key in (X, Y))
    verdict = summary.family.of(setting.label, X) if summary.family is not None else None
    colour, marker = LOOKS[verdict.word] if verdict is not None else ("black", "s")
    axes.errorbar(
        100 * x, 100 * y, 100 * y_sd, 100 * x_sd, fmt=marker, color=colour, ecolor=colour + "55" if colour[0] == "#"
        else "#00000055", elinewidth=1, markersize=6,
    )  # fmt: skip


def _label(canvas: FigureCanvasAgg, axes: Axes, settings: list[SettingResults]) -> None:
    """Write each setting's label beside its mark, where it covers no mark and no other label."""
    canvas.figure.draw_without_rendering()
    centres = [axes.transData.transform([100 * s.mean_sd(key)[0] for key in (X, Y)]) for s in settings]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centres]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    for setting in settings:
        at = 100 * setting.mean_sd(X)[0], 100 * setting.mean_sd(Y)[0]
        best = None
        for dx, dy in AWAY:
            text = axes.annotate(
                setting.label, at, (dx, dy), textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center", fontsize=8,
                arrowprops={"arrowstyle": "-", "color": "#8c959f", "lw": 0.6} if abs(dx) + abs(dy) > 12 else None,
            )  # fmt: skip
            text.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(text)  # without its line
            covered = sum(1 for other in taken if box.overlaps(other))
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0
                           and box.y1 <= axes.bbox.y1)  # fmt: skip
            rating = covered + 10 * outside
            if best is not None and rating >= best[0]:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (rating, text, box)
            if not rating:
                break
        assert best is not None
        taken.append(best[2])
