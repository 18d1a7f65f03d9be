"""The misclassified images of each setting, the most confident mistakes first."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.special import softmax

from losslab.report.run_records import Predictions

MOST = 60
"""Images shown of each setting."""


class Mistake(NamedTuple):
    """One image and one wrong class that it was called.

    Args:
        image: its index in the validation split.
        true, predicted: classes.
        confidence: in the wrong class, mean over the seeds that called it so.
        seeds: how many did.
    """

    image: int
    true: int
    predicted: int
    confidence: float
    seeds: int


def mistakes(predictions: Predictions) -> list[Mistake]:
    """All mistakes, by falling confidence; at the same confidence in the order of the split."""
    confidences: dict[tuple[int, int], list[float]] = {}
    for logits in predictions.logits:
        probabilities = softmax(logits.astype(float), axis=1)
        called = logits.argmax(axis=1)
        for index in np.flatnonzero(called != predictions.labels).tolist():
            confidences.setdefault((index, int(called[index])), []).append(float(probabilities[index, called[index]]))
    found = [
        Mistake(index, int(predictions.labels[index]), predicted, sum(values) / len(values), len(values))
        for (index, predicted), values in confidences.items()
    ]
    return sorted(found, key=lambda m: (-m.confidence, m.image, m.predicted))


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
    found = {label: mistakes(given) for label, given in zip(labels, predictions, strict=True)}
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
