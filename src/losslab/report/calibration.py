"""How far confidence can be believed: reliability, expected calibration error and Brier score."""

from typing import NamedTuple

import numpy as np

from losslab.metrics.classification import ECE_BINS


class Reliability(NamedTuple):
    """Of one set of probabilities.

    Args:
        confidence: mean confidence of each bin, (B,); NaN where it is empty.
        accuracy: share of right calls in each bin, (B,); NaN where it is empty.
        share: of the images in each bin, (B,).
        ece: the mean gap between confidence and accuracy, weighted by share; in [0, 1].
        brier: mean of sum_k (p_k - [k is the label])^2, in [0, 2] (Brier 1950).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    ece: float
    brier: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> Reliability:
    """Measure probabilities (N, C) against labels (N,), in bins of equal width of the largest probability."""
    confidence, right = probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, right, bins) / count
    share = count / len(labels)
    one_hot = np.eye(probabilities.shape[1])[labels]
    brier = float(((probabilities - one_hot) ** 2).sum(axis=1).mean())
    return Reliability(mean, accuracy, share, float(np.nansum(share * np.abs(mean - accuracy))), brier)
