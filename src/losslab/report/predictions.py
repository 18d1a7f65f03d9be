"""Figures of predictions: confusion matrix, calibration, most confident mistakes; and of which images they are."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from losslab.errors import UserError
from losslab.losses import focal_to_probability
from losslab.metrics import find_mistakes
from losslab.report.figure import Choice, Figure, Table, Trace, axes, axis_layout, categories, escape_tags, marker
from losslab.report.records import TEST_PREDICTIONS, Predictions, image_identities, setting_predictions, split_images
from losslab.report.statistics import Reliability, mean_and_spread, reliability
from losslab.study import SettingResults

IN_TABLE = 12
"""Confusions of a setting in the table, the most frequent first."""
MOST_IMAGES = 60
"""Mistakes of a setting in the gallery."""
MOST_CLASSES = 40
"""Classes in a figure; of more, only some are drawn."""
TOO_LARGE = "the predictions of all seeds are too large to be read at once"
LARGEST = 2_000_000_000
"""Bytes of prediction files up to which those of all seeds are read."""
MOST_NAMES = 12
"""Classes up to which the cells of a matrix hold their numbers."""


class Shown(NamedTuple):
    """The predictions that figures show, and of which images they are.

    Args:
        predictions: by the settings' labels; of the same images for all seeds of a setting.
        text: which images of which seeds, in sentences.
        of_test: whether the images are test images, else validation images.
    """

    predictions: dict[str, Predictions]
    text: str
    of_test: bool = False

    @property
    def same_images(self) -> bool:
        """Whether all settings' predictions are of the same images, which arms may change; False without any."""
        given = list(self.predictions.values())
        return bool(given) and all(each.has_images_of(given[0]) for each in given)


def share_images(folder: Path, settings: Sequence[SettingResults]) -> bool:
    """Return whether all seeds of each setting have the same validation images."""
    return all(len({*image_identities(folder, setting).values()}) == 1 for setting in settings)


def shown_predictions(folder: Path, settings: Sequence[SettingResults]) -> Shown:
    """Return the predictions of the validation images: of all seeds if they share them, else of one seed.

    Args:
        folder: the folder in which the runs' paths start.
        settings: the settings to show.
    """
    if (shared := share_images(folder, settings)) and _are_small(folder, settings, "predictions.npz"):
        several = any(len(setting.seeds) > 1 for setting in settings)
        text = "Of the validation images, which all seeds share; their predictions are put together."
        return Shown(_read(folder, settings), text if several else "Of the validation images.")
    reason = TOO_LARGE if shared else "each seed has validation images of its own"
    best = Shown({}, "")
    for seed in sorted(set.intersection(*({*setting.seeds} for setting in settings))) or settings[0].seeds:
        shown = Shown(_read(folder, settings, seed), f"Of seed {seed} alone, since {reason}.")
        best = max(best, shown, key=lambda each: len(each.predictions))
        if len(best.predictions) == len(settings):
            break
    return best


def shown_test_predictions(folder: Path, settings: Sequence[SettingResults]) -> Shown:
    """Return the predictions of the test images, which all seeds share.

    Args:
        folder: a confirmation that is over, runs/<study>/confirm.
        settings: the confirmed settings to show.
    """
    text = (
        f"Of the test images, which all {len(settings[0].seeds)} seeds of the confirmation share, since each has "
        "validation images of its own. The predictions are those of the confirmation; showing them evaluates nothing, "
        "chooses nothing, and does not count as a further read of the test images."
    )
    if _are_small(folder, settings, TEST_PREDICTIONS):
        return Shown(_read(folder, settings, of_test=True), text, True)
    seed = settings[0].seeds[0]
    return Shown(_read(folder, settings, seed, of_test=True), f"{text} Shown is seed {seed} alone: {TOO_LARGE}.", True)


def _are_small(folder: Path, settings: Sequence[SettingResults], name: str) -> bool:
    """Return whether the runs' files of this name together fit into memory."""
    files = (folder / run / name for setting in settings for run in setting.runs)
    return sum(file.stat().st_size for file in files if file.is_file()) <= LARGEST


def _read(
    folder: Path, settings: Sequence[SettingResults], seed: int | None = None, of_test: bool = False
) -> dict[str, Predictions]:
    found = {setting.label: setting_predictions(folder, setting, seed, of_test) for setting in settings}
    return {label: predictions for label, predictions in found.items() if predictions is not None}


def mean_confusion(predictions: Predictions) -> np.ndarray:
    """Return the images of class i (row) that were predicted as class j (column), mean over the seeds, (C, C)."""
    classes = range(predictions.logits.shape[2])
    matrices = [confusion_matrix(predictions.labels, each.argmax(1), labels=classes) for each in predictions.logits]
    return np.mean(matrices, axis=0)  # (S, C, C) -> (C, C)


def confusion(predictions: Mapping[str, Predictions], classes: Sequence[str], baseline: str | None) -> Figure:
    """Draw the chosen setting's confusion matrix and, with a baseline, its difference from the baseline's.

    Args:
        predictions: by the settings' labels.
        classes: C names.
        baseline: the label of the baseline, or None.
    """
    matrices = {label: mean_confusion(given) for label, given in predictions.items()}
    reference = matrices.get(baseline) if baseline is not None else None
    differences = {label: matrix - reference for label, matrix in matrices.items()} if reference is not None else {}
    diagonal = np.eye(len(classes), dtype=bool)  # (C, C)
    errors = {label: np.where(diagonal, 0, matrix) for label, matrix in matrices.items()}
    by_class = sum(matrix.sum(axis=0) + matrix.sum(axis=1) for matrix in errors.values())  # (C,)
    drawn = np.sort(np.argsort(-np.asarray(by_class), kind="stable")[:MOST_CLASSES])
    most = max(float(matrix.max()) for matrix in errors.values()) or 1.0
    widest = max((float(np.abs(matrix).max()) for matrix in differences.values()), default=1.0) or 1.0
    drawn_classes = [classes[index] for index in drawn.tolist()]
    names, cells = [escape_tags(name) for name in drawn_classes], np.ix_(drawn, drawn)
    traces: list[Trace] = []
    rows = []
    for label, matrix in matrices.items():
        off_diagonal = np.where(diagonal, np.nan, matrix)
        traces.append(
            _heatmap(off_diagonal[cells], names, label, "%{z:.1f}", [[0, "@heat0"], [1, "@heat1"]], (0, most), 0)
        )
        traces.append(
            {
                "type": "scatter", "mode": "text", "x": names, "y": names, "meta": {"setting": label},
                "text": list(map(_two_digits, np.diag(matrix)[drawn].tolist())),
                "textfont": {"color": "@muted", "size": 11},
                "hovertemplate": "%{x} recognised: %{text}<extra></extra>", "showlegend": False, **axes(0),
            }
        )  # fmt: skip
        if label in differences:
            scale = [[0, "@minus"], [0.5, "@heat0"], [1, "@plus"]]
            traces.append(_heatmap(differences[label][cells], names, label, "%{z:+.1f}", scale, (-widest, widest), 1))
        ranked = np.argsort(-errors[label], axis=None, kind="stable")[:IN_TABLE]
        for true, predicted in zip(*np.unravel_index(ranked, matrix.shape), strict=True):
            if errors[label][true, predicted] > 0:
                change = f"{differences[label][true, predicted]:+.1f}" if label in differences else "–"
                rows.append([label, classes[true], classes[predicted], f"{matrix[true, predicted]:.1f}", change])
    titles = ["images, mean over seeds", *([f"minus {baseline}"] if differences else [])]
    only = (
        f" Drawn are the {len(drawn)} of {len(classes)} classes with the most mistakes."
        if len(names) < len(classes)
        else ""
    )
    axis = categories(drawn_classes) | {"showgrid": False, "zeroline": False}
    x, y = axis | {"title": {"text": "called"}}, axis | {"title": {"text": "is"}, "autorange": "reversed"}
    return Figure(
        "confusion", "Which class is taken for which",
        "The row is the class of the image, the column the class that it was called; the diagonal, in grey, is "
        "correct. In the difference, plus (orange) on the diagonal means more images recognised, and beside it more "
        f"mistakes.{only}",
        traces, axis_layout(len(titles), x, y), Table(["setting", "is", "called", "images", "minus baseline"], rows),
        [Choice("setting", "Setting", list(predictions), len(predictions) - 1)],
        panels=titles, panel_width=330, panel_height=400,
    )  # fmt: skip


def _heatmap(
    z: np.ndarray, names: list[str], label: str, text: str, scale: list[list[object]], ends: tuple[float, float],
    panel: int,
) -> Trace:  # fmt: skip
    """Return the trace of a matrix (C, C); cells that round to 0 have no text."""
    printed = np.where(np.abs(np.nan_to_num(z)) < 0.05, np.nan, z)
    signed = ends[0] < 0
    return {
        "type": "heatmap", "z": z.tolist(), "x": names, "y": names, "meta": {"setting": label},
        "text": [["" if np.isnan(value) else _two_digits(value, signed) for value in row] for row in printed],
        "texttemplate": "%{text}" if len(names) <= MOST_NAMES else "", "colorscale": scale,
        "zmin": ends[0], "zmax": ends[1], "showscale": False, "xgap": 1, "ygap": 1, "hoverongaps": False,
        "hovertemplate": f"is %{{y}}, called %{{x}}: {text}<extra></extra>", **axes(panel),
    }  # fmt: skip


def _two_digits(value: float, signed: bool = False) -> str:
    """Format a number for a cell, which has room for two digits."""
    text = f"{abs(value):.1f}" if abs(value) < 9.95 else f"{abs(value):.0f}"
    return f"{'−' if value < 0 else '+' if signed else ''}{text}"


def calibration(predictions: Mapping[str, Predictions], gammas: Mapping[str, float | None]) -> Figure:
    """Draw accuracy against confidence for the chosen setting, and the distribution of confidence.

    Args:
        predictions: by the settings' labels.
        gammas: focal's gamma of each setting, which psi undoes; None for another loss, which has no psi.
    """
    diagonal = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip", "showlegend": False}
    traces: list[Trace] = [diagonal | {"line": {"color": "@muted", "width": 1, "dash": "dot"}} | axes(0)]
    rows = []
    for label, every in predictions.items():
        given = every._replace(logits=every.logits[:, every.labels >= 0], labels=every.labels[every.labels >= 0])
        stacked = given.logits.reshape(-1, given.logits.shape[2])  # (S N, C)
        versions = {"as trained": softmax(stacked.astype(float), axis=1)}
        if gamma := gammas[label]:
            versions["after psi"] = focal_to_probability(torch.from_numpy(stacked), gamma).numpy()
        row = [label]
        for index, (version, probabilities) in enumerate(versions.items()):
            pooled = reliability(probabilities, np.tile(given.labels, len(given.logits)))
            traces += _reliability_traces(label, version, pooled, index)
            by_seed = probabilities.reshape(given.logits.shape)  # (S, N, C)
            measured = [reliability(p, given.labels) for p in by_seed]
            row += [_mean_sd([r.ece for r in measured]), _mean_sd([r.brier for r in measured])]
        rows.append([*row, *["–"] * (5 - len(row))])
    axis = {"range": [0, 1], "title": {"text": "confidence"}}
    return Figure(
        "calibration", "Can confidence be believed?",
        "Left: of the images predicted with this confidence, the share that is correct. On the dotted line the two "
        "agree; above it the network is under-confident, as focal loss makes it. A larger mark stands for more images. "
        "Right: share of images by confidence. psi maps focal's confidence back to probabilities without changing any "
        "prediction; it has no effect for γ = 0.",
        traces,
        {"xaxis": axis, "yaxis": {"range": [0, 1.02]},
         "xaxis2": axis, "yaxis2": {"tickformat": ".0%", "rangemode": "tozero"}},
        Table(["setting", "ECE", "Brier", "ECE after psi", "Brier after psi"], rows),
        [Choice("setting", "Setting", list(predictions), len(predictions) - 1)],
        panels=["accuracy", "share of images"], panel_width=300, panel_height=320,
    )  # fmt: skip


def _reliability_traces(label: str, version: str, measured: Reliability, index: int) -> list[Trace]:
    filled = measured.share > 0
    share = measured.share[filled]
    shared: Trace = {
        "type": "scatter", "mode": "lines+markers", "name": version, "legendgroup": version, "meta": {"setting": label},
        "line": {"color": f"@c{index}", "width": 2, "dash": ("solid", "dash")[index]}, "marker": marker(index, 7),
    }  # fmt: skip
    centres = ((np.arange(len(measured.share)) + 0.5) / len(measured.share)).tolist()
    return [
        {**shared, "x": measured.confidence[filled].tolist(), "y": measured.accuracy[filled].tolist(),
         "customdata": share.tolist(), "marker": marker(index, 7) | {"size": (4 + 9 * np.sqrt(share)).tolist()},
         "cliponaxis": False, **axes(0),
         "hovertemplate": "confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{customdata:.1%} of images"},
        {**shared, "x": centres, "y": measured.share.tolist(), "showlegend": False,
         "hovertemplate": "confidence near %{x:.2f}: %{y:.1%}", **axes(1)},
    ]  # fmt: skip


def _mean_sd(values: Sequence[float]) -> str:
    return mean_and_spread(values, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def read_gallery(shown: Shown, classes: list[str]) -> tuple[dict[str, Any], str]:
    """Return `gallery` with the names and the order of its choices, or {} and the reason why there is none.

    Args:
        shown: predictions of the same images, at least one.
        classes: C names.
    """
    labels, first = list(shown.predictions), next(iter(shown.predictions.values()))
    try:
        images = split_images(first.run, shown.of_test)
    except (UserError, OSError, IndexError) as error:
        return {}, f"The images are not shown: {error}"
    if len(images) != len(first.labels):
        return {}, "The images are not shown: the predictions are of another number of images."
    split = "test" if shown.of_test else "validation"
    choices = {"classes": classes, "order": labels, "start": labels[-1], "split": split}
    return gallery(shown.predictions, images) | choices, ""


def gallery(predictions: Mapping[str, Predictions], images: np.ndarray) -> dict[str, Any]:
    """Return the input of the page's gallery.

    Args:
        predictions: by the settings' labels.
        images: the images of the predictions, (N, channels, height, width) uint8.

    Returns:
        `settings`: label -> its first `MOST_IMAGES` mistakes; `total`: label -> number of its mistakes; `images`: index
        in the split -> PNG as a data URL; `seeds`: label -> number of seeds.
    """
    found = {label: find_mistakes(given.logits, given.labels) for label, given in predictions.items()}
    first = {label: mistakes[:MOST_IMAGES] for label, mistakes in found.items()}
    needed = sorted({mistake.image for mistakes in first.values() for mistake in mistakes})
    return {
        "settings": {label: [list(mistake) for mistake in mistakes] for label, mistakes in first.items()},
        "total": {label: len(mistakes) for label, mistakes in found.items()},
        "images": {str(index): data_url(images[index]) for index in needed},
        "seeds": {label: len(given.logits) for label, given in predictions.items()},
    }


def data_url(image: np.ndarray) -> str:
    """Return the PNG of an image (channels, height, width) uint8; unless there are 3 channels, of the first one."""
    content = io.BytesIO()
    pixels = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]  # (height, width, 3) or (height, width)
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
