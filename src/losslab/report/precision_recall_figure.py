"""Precision and recall of each class against the varied number, as one page that needs no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from losslab.run.run_folder import write_whole

if TYPE_CHECKING:
    from losslab.report.study_summary import SettingResults

COLOURS = {"precision": "#0072B2", "recall": "#D55E00"}
"""Two colours that colour-blind readers tell apart (Okabe & Ito 2008); the line's dash says the same."""
DASHES = {"precision": "solid", "recall": "dash"}
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up")
COLUMNS = 4


def write_precision_recall(path: Path, settings: Sequence["SettingResults"], heading: str) -> bool:
    """Draw a panel for the macro means and one for each class; bars are one sd over the seeds.

    Args:
        path: the HTML file, whole in itself, about 5 MB of which are Plotly's script.
        settings: the horizontal axis is the first path whose values are numbers in all of them.
        heading: what was measured on which images.

    Returns:
        False if no number was varied, so that there is nothing to draw against.
    """
    axis = next((p for p in settings[0].varied if all(_is_number(s.varied.get(p)) for s in settings)), None)
    if axis is None:
        return False
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    name = axis.rsplit(".", 1)[-1]
    classes = [key.removeprefix("val/recall/") for key in settings[0].values if key.startswith("val/recall/")]
    classes = ["macro", *(label for label in classes if label != "macro")]
    rows = -(-len(classes) // COLUMNS)
    titles = [f"class {label}" if label != "macro" else "macro mean" for label in classes]
    figure = make_subplots(
        rows, COLUMNS, subplot_titles=titles, shared_xaxes="all", shared_yaxes="all",
        horizontal_spacing=0.03, vertical_spacing=0.25 / rows,
    )  # fmt: skip
    arms = list(dict.fromkeys(setting.arm for setting in settings))
    for panel, label in enumerate(classes):
        for arm in arms:
            group = sorted((s for s in settings if s.arm == arm), key=lambda s: s.varied[axis])
            for metric in COLOURS:
                figure.add_trace(
                    _trace(go, group, axis, metric, label, arm if len(arms) > 1 else "", SYMBOLS[arms.index(arm) % 6],
                           legend=panel == 0),
                    row=panel // COLUMNS + 1,
                    col=panel % COLUMNS + 1,
                )  # fmt: skip
    figure.update_xaxes(title_text=name, row=rows)
    figure.update_layout(
        title=heading, template="plotly_white", height=230 * rows + 120, legend={"orientation": "h", "y": -0.12}
    )
    write_whole(path, figure.to_html(include_plotlyjs=True, div_id="precision-recall"))
    return True


def _trace(
    go: Any, group: Sequence["SettingResults"], axis: str, metric: str, label: str, arm: str, symbol: str, legend: bool
) -> Any:
    means, sds = zip(*(setting.mean_sd(f"val/{metric}/{label}") for setting in group), strict=True)
    # Where two settings share a number (a search over more than it), a line between them would say nothing.
    one_each = len({setting.varied[axis] for setting in group}) == len(group) and len(group[0].varied) == 1
    return go.Scatter(
        x=[setting.varied[axis] for setting in group],
        y=means,
        error_y={"type": "data", "array": np.nan_to_num(sds).tolist(), "thickness": 1},
        mode="lines+markers" if one_each else "markers",
        line={"color": COLOURS[metric], "dash": DASHES[metric]},
        marker={"symbol": symbol, "size": 7},
        name=f"{arm} {metric}".strip(),
        legendgroup=f"{arm}{metric}",
        showlegend=legend,
        customdata=[setting.label for setting in group],
        hovertemplate="%{customdata}<br>%{y:.4f} ± %{error_y.array:.4f}",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
