"""Confusion matrices, and how they differ from the baseline's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from losslab.report.figure import Choice, Figure, Table, Trace, axes, categories, panel_title, plain
from losslab.report.run_records import Predictions

IN_TABLE = 12


def mean_confusion(predictions: Predictions) -> np.ndarray:
    """Images of class i (rows) that were called class j (columns), mean over the seeds, (C, C)."""
    classes = range(predictions.logits.shape[2])
    matrices = [
        confusion_matrix(predictions.labels, logits.argmax(axis=1), labels=classes) for logits in predictions.logits
    ]
    return np.mean(matrices, axis=0)


def confusion(
    labels: Sequence[str], predictions: Sequence[Predictions], classes: Sequence[str], baseline: str | None
) -> Figure:
    """The chosen setting's matrix and, where there is a baseline, the difference from the baseline's.

    Args:
        labels: the settings.
        predictions: theirs, in the same order.
        classes: C names.
        baseline: the label of the baseline among them, or None.
    """
    matrices = dict(zip(labels, map(mean_confusion, predictions), strict=True))
    names = [plain(name) for name in classes]
    errors = {label: matrix * (1 - np.eye(len(classes))) for label, matrix in matrices.items()}
    most = max(float(matrix.max()) for matrix in errors.values()) or 1.0
    traces: list[Trace] = []
    rows = []
    reference = matrices.get(baseline) if baseline is not None else None
    differences = {label: matrix - reference for label, matrix in matrices.items()} if reference is not None else {}
    widest = max((float(np.abs(matrix).max()) for matrix in differences.values()), default=1.0) or 1.0
    for label, matrix in matrices.items():
        off_diagonal = np.where(np.eye(len(classes), dtype=bool), np.nan, matrix)
        traces.append(_heatmap(off_diagonal, names, label, "%{z:.1f}", [[0, "@heat0"], [1, "@heat1"]], (0, most), 0))
        traces.append(
            {
                "type": "scatter", "mode": "text", "x": names, "y": names, "meta": {"setting": label},
                "text": list(map(_short, np.diag(matrix).tolist())), "textfont": {"color": "@muted", "size": 11},
                "hovertemplate": "%{x} recognised: %{text}<extra></extra>", "showlegend": False, **axes(0),
            }
        )  # fmt: skip
        if label in differences:
            scale = [[0, "@minus"], [0.5, "@heat0"], [1, "@plus"]]
            traces.append(_heatmap(differences[label], names, label, "%{z:+.1f}", scale, (-widest, widest), 1))
        largest = np.dstack(np.unravel_index(np.argsort(-errors[label], axis=None, kind="stable"), matrix.shape))[0]
        for true, predicted in largest[:IN_TABLE]:
            if errors[label][true, predicted] > 0:
                change = f"{differences[label][true, predicted]:+.1f}" if label in differences else "–"
                count = f"{matrix[true, predicted]:.1f}"
                rows.append([label, classes[true], classes[predicted], count, change])
    panels = 2 if differences else 1
    layout: dict[str, Any] = {"annotations": [panel_title("images, mean over seeds", 0)]}
    if differences:
        layout["annotations"].append(panel_title(f"minus {baseline}", 1))
    for panel in range(panels):
        number = str(panel + 1) if panel else ""
        shared = categories(classes) | {"showgrid": False, "zeroline": False}
        layout[f"xaxis{number}"] = shared | {"title": {"text": "called"}}
        layout[f"yaxis{number}"] = shared | {"title": {"text": "is"}, "autorange": "reversed"}
    return Figure(
        "confusion",
        "Which class is taken for which",
        "A row is what the image is, a column what it was called; the diagonal, in grey, is right. In the difference, "
        "plus (orange) on the diagonal is more images recognised, plus beside it more mistakes.",
        traces,
        layout,
        Table(["setting", "is", "called", "images", "minus baseline"], rows),
        [Choice("setting", "Setting", list(labels), len(labels) - 1)],
        panels=panels,
        panel_width=330,
        panel_height=400,
    )


def _heatmap(
    z: np.ndarray, names: list[str], label: str, text: str, scale: list[list[object]], ends: tuple[float, float],
    panel: int,
) -> Trace:  # fmt: skip
    shown = np.where(np.abs(np.nan_to_num(z)) < 0.05, np.nan, z)
    return {
        "type": "heatmap", "z": z.tolist(), "x": names, "y": names, "meta": {"setting": label},
        "text": [["" if np.isnan(value) else _short(value, signed=ends[0] < 0) for value in row] for row in shown],
        "texttemplate": "%{text}" if len(names) <= 12 else "", "colorscale": scale,
        "zmin": ends[0], "zmax": ends[1], "showscale": False, "xgap": 1, "ygap": 1, "hoverongaps": False,
        "hovertemplate": f"is %{{y}}, called %{{x}}: {text}<extra></extra>", **axes(panel),
    }  # fmt: skip


def _short(value: float, signed: bool = False) -> str:
    """Two digits, as a cell has room for."""
    text = f"{abs(value):.1f}" if abs(value) < 9.95 else f"{abs(value):.0f}"
    return f"{'−' if value < 0 else '+' if signed else ''}{text}"
