"""Reliability diagrams, before and after psi."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import softmax

from losslab.losses import focal_to_probability
from losslab.report.calibration import Reliability, reliability
from losslab.report.figure import Choice, Figure, Table, Trace, axes, numbers, panel_title
from losslab.report.run_records import Predictions


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
