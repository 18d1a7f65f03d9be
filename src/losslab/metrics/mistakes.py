"""Misclassified images, the most confident first."""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax


class Mistake(NamedTuple):
    """One image with one wrong class that was predicted for it.

    Args:
        image: index of the image in its split.
        true, predicted: the label and the predicted class, in 0..C-1.
        confidence: softmax probability of the wrong class, mean over the seeds that predicted it.
        seeds: number of seeds that predicted it.
    """

    image: int
    true: int
    predicted: int
    confidence: float
    seeds: int


def find_mistakes(logits: np.ndarray, labels: np.ndarray) -> list[Mistake]:
    """Return all mistakes, by falling confidence; at the same confidence in the order of the split.

    Args:
        logits: (S, N, C) floating, one prediction of the split for each of S seeds.
        labels: (N,) int64 in 0..C-1; images with a label below 0 are left out.
    """
    confidences: dict[tuple[int, int], list[float]] = {}
    for seed_logits in logits:
        probabilities = softmax(seed_logits.astype(float), axis=1)  # (N, C)
        predicted = seed_logits.argmax(axis=1)  # (N,)
        for image in np.flatnonzero((predicted != labels) & (labels >= 0)).tolist():
            wrong = int(predicted[image])
            confidences.setdefault((image, wrong), []).append(float(probabilities[image, wrong]))
    found = [
        Mistake(image, int(labels[image]), wrong, sum(values) / len(values), len(values))
        for (image, wrong), values in confidences.items()
    ]
    return sorted(found, key=lambda mistake: (-mistake.confidence, mistake.image, mistake.predicted))
