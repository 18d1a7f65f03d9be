"""Misclassified images, the most confident first."""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax


class Mistake(NamedTuple):
    """One image and one wrong class that it was called.

    Args:
        image: index of the image in its split.
        true, predicted: the label and the class that it was called, in 0..C-1.
        confidence: softmax probability of the wrong class, mean over the seeds that called it so.
        seeds: number of seeds that called it so.
    """

    image: int
    true: int
    predicted: int
    confidence: float
    seeds: int


def find_mistakes(logits: np.ndarray, labels: np.ndarray) -> list[Mistake]:
    """All mistakes, by falling confidence; at the same confidence in the order of the split.

    Args:
        logits: (S, N, C) floating, one prediction of the split for each of S seeds.
        labels: (N,) int64 in 0..C-1.
    """
    confidences: dict[tuple[int, int], list[float]] = {}
    for of_seed in logits:
        probabilities = softmax(of_seed.astype(float), axis=1)
        called = of_seed.argmax(axis=1)  # (N,)
        for index in np.flatnonzero(called != labels).tolist():
            confidences.setdefault((index, int(called[index])), []).append(float(probabilities[index, called[index]]))
    found = [
        Mistake(index, int(labels[index]), predicted, sum(values) / len(values), len(values))
        for (index, predicted), values in confidences.items()
    ]
    return sorted(found, key=lambda mistake: (-mistake.confidence, mistake.image, mistake.predicted))
