"""Confusion matrices, and how they differ from the baseline's."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from losslab.losses import focal_to_probability
from losslab.metrics import find_mistakes
from losslab.report.figure import Choice, Figure, Table, Trace, axes, categories, numbers, panel_title, plain
from losslab.report.records import Predictions
from losslab.report.statistics import Reliability, reliability

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


def calibration(labels: Sequence[str], predictions: Sequence[Predictions], gammas: Sequence[float | None]) -> Figure:
    """Accuracy against confidence for the chosen setting, and how many images have which confidence.

    Args:
        labels: the settings.
        predictions: theirs, in the same order.
        gammas: focal's gamma of each, which psi undoes; None for another loss, which has no psi.
    """
    traces: list[Trace] = []
    rows = []
    diagonal = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip", "showlegend": False}
    traces.append(diagonal | {"line": {"color": "@muted", "width": 1, "dash": "dot"}} | axes(0))
    for label, given, gamma in zip(labels, predictions, gammas, strict=True):
        stacked = given.logits.reshape(-1, given.logits.shape[2])  # (S N, C)
        versions = {"as trained": softmax(stacked.astype(float), axis=1)}
        if gamma:
            versions["after psi"] = focal_to_probability(torch.from_numpy(stacked), gamma).numpy()
        row = [label]
        for index, (version, probabilities) in enumerate(versions.items()):
            each = [reliability(p, given.labels) for p in probabilities.reshape(given.logits.shape)]
            pooled = reliability(probabilities, np.tile(given.labels, len(given.logits)))
            traces += _traces(label, version, pooled, index)
            row += [_mean_sd([r.ece for r in each]), _mean_sd([r.brier for r in each])]
        rows.append([*row, *["–"] * (5 - len(row))])
    axis = {"range": [0, 1], "title": {"text": "confidence"}}
    return Figure(
        "calibration",
        "Can confidence be believed?",
        "Left: of the images called with this confidence, how many are right; on the dotted line the two agree, above "
        "it the network is under-confident, as focal loss makes it; the larger a mark, the more images. Right: share "
        "of images by confidence. psi maps focal's confidence back to probabilities without changing any call; it has "
        "no effect for γ = 0.",
        traces,
        {
            "xaxis": axis,
            "yaxis": {"range": [0, 1.02]},
            "xaxis2": axis,
            "yaxis2": {"tickformat": ".0%", "rangemode": "tozero"},
            "annotations": [panel_title("accuracy", 0), panel_title("share of images", 1)],
        },
        Table(["setting", "ECE", "Brier", "ECE after psi", "Brier after psi"], rows),
        [Choice("setting", "Setting", list(labels), len(labels) - 1)],
        panels=2,
        panel_width=300,
        panel_height=320,
    )


def _traces(label: str, version: str, measured: Reliability, index: int) -> list[Trace]:
    filled = measured.share > 0
    confidence, accuracy = measured.confidence[filled].tolist(), measured.accuracy[filled].tolist()
    looks: Trace = {
        "line": {"color": f"@c{index}", "width": 2, "dash": ("solid", "dash")[index]},
        "marker": {"color": f"@c{index}", "symbol": ("circle", "square")[index], "size": 7},
        "legendgroup": version, "name": version, "meta": {"setting": label}, "type": "scatter",
    }  # fmt: skip
    centres = ((np.arange(len(measured.share)) + 0.5) / len(measured.share)).tolist()
    return [
        {**looks, "mode": "lines+markers", "x": confidence, "y": accuracy,
         "customdata": measured.share[filled].tolist(),
         "marker": looks["marker"] | {"size": (4 + 9 * np.sqrt(measured.share[filled])).tolist()}, "cliponaxis": False,
         "hovertemplate": "confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{customdata:.1%} of images", **axes(0)},
        {**looks, "mode": "lines+markers", "x": centres, "y": measured.share.tolist(), "showlegend": False,
         "hovertemplate": "confidence near %{x:.2f}: %{y:.1%}", **axes(1)},
    ]  # fmt: skip


def _mean_sd(values: Sequence[float]) -> str:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return numbers([float(np.mean(values))])[0] + ("" if math.isnan(sd) else f" ± {sd:.4f}")


MOST = 60
"""Images shown of each setting."""


def gallery(labels: Sequence[str], predictions: Sequence[Predictions], images: np.ndarray) -> dict[str, Any]:
    """What the page's gallery reads.

    Args:
        labels: the settings.
        predictions: theirs, in the same order.
        images: the validation images, (N, channels, height, width) uint8.

    Returns:
        `settings`: label -> its mistakes, `MOST` of them; `total`: label -> how many there are; `images`: index in
        the split -> PNG as a data URL; `seeds`: label -> number of seeds.
    """
    found = {label: find_mistakes(given.logits, given.labels) for label, given in zip(labels, predictions, strict=True)}
    shown = {label: all_of_them[:MOST] for label, all_of_them in found.items()}
    needed = sorted({mistake.image for chosen in shown.values() for mistake in chosen})
    return {
        "settings": {label: [list(mistake) for mistake in chosen] for label, chosen in shown.items()},
        "total": {label: len(all_of_them) for label, all_of_them in found.items()},
        "images": {str(index): data_url(images[index]) for index in needed},
        "seeds": {label: len(given.logits) for label, given in zip(labels, predictions, strict=True)},
    }


def data_url(image: np.ndarray) -> str:
    """A PNG of an image (1 or 3 channels, height, width) uint8; of other numbers of channels, the first."""
    content = io.BytesIO()
    pixels = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
