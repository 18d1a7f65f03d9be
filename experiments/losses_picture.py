"""The README's picture: precision and recall of the tail, a row a loss."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from losslab.report import Summary
from losslab.study import SettingResults

PANELS = {"test/precision/tail": "precision of the tail, %", "test/recall/tail": "recall of the tail, %"}
LOOKS = {"higher": ("#0072B2", ">"), "lower": ("#D55E00", "<"), "not shown": ("#6e7781", "o")}
"""Colour (Okabe & Ito's, for the colour-blind) and marker, by the verdict."""

STYLE: Any = {"font.size": 9, "svg.hashsalt": "losslab", "svg.fonttype": "path", "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#6e7781", "font.family": "DejaVu Sans"}  # fmt: skip


def losses_picture(summary: Summary) -> str:
    """An SVG on a white ground, the same bytes for the same numbers; the losses with the best recall on top.

    Args:
        summary: of a confirmation on data with a tail, with a complete baseline.
    """
    settings = sorted(summary.settings, key=lambda setting: setting.mean_sd("test/recall/tail")[0])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 1.2 + 0.24 * len(settings)), dpi=72, facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, (key, label) in zip((left, right), PANELS.items(), strict=True):
            for place, setting in enumerate(settings):
                _mark(axes, summary, setting, key, place)
            axes.set_xlabel(label)
            axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
            axes.tick_params(axis="y", length=0)
        left.set_yticks(range(len(settings)), [setting.label for setting in settings])
        base = summary.baseline.label if summary.baseline is not None else ""
        for word, (colour, marker) in LOOKS.items():
            told = word if word != "not shown" else "no difference shown"
            right.plot([], [], marker, color=colour, label=told)
        right.plot([], [], "s", color="black", label=base)
        figure.legend(
            *right.get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False, fontsize=8,
            title=f"Three rarest of ten digits, test images, mean ± sd of {len(summary.study.seeds)} seeds; "
            f"against {base}:",
        )  # fmt: skip
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _mark(axes: Axes, summary: Summary, setting: SettingResults, key: str, place: int) -> None:
    mean, sd = setting.mean_sd(key)
    verdict = summary.family.of(setting.label, key) if summary.family is not None else None
    colour, marker = LOOKS[verdict.word] if verdict is not None else ("black", "s")
    axes.errorbar(100 * mean, place, xerr=100 * sd, fmt=marker, color=colour, elinewidth=1, markersize=5)
