"""Max-|t| sign flips over paired seeds: one critical value for a whole family of comparisons."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from losslab.metrics import ECE_BINS

ALL_PATTERNS_UP_TO = 12
"""Seeds up to which every sign pattern is taken; from there on, RANDOM_PATTERNS of them."""
RANDOM_PATTERNS = 10_000
FEWEST_SEEDS = 6
"""Of n seeds' 2^n patterns, two are as extreme as data of one sign: 2 / 64 is the first share below 0.05."""
ROUNDING = 1e-9
"""Two |t| closer than this, relatively, are the same."""


class MaxT(NamedTuple):
    """What the flips say of m comparisons.

    Args:
        mean: the mean differences, (m,).
        low, high: the simultaneous intervals, (m,); infinite where too few patterns tell the data from their flips.
        p: p-values adjusted for the family, (m,); p <= 1 - level exactly where the interval leaves out zero.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def max_t(differences: np.ndarray, level: float = 0.95) -> MaxT:
    """Simultaneous intervals and adjusted p-values (Westfall & Young 1993, single step, section 2.5).

    If a comparison's null hypothesis holds, its differences are as likely with their signs as against them. All
    comparisons of a seed flip together, which keeps their correlation, and the largest |t| over the family is what
    each |t| is held against. This test controls the error of the family exactly, whichever hypotheses hold.

    Turned into intervals it covers too little: flipping a real effect inflates the spread, so that the critical value
    falls below that of the errors (ten true effects of 5 sd at 6 seeds: 73 % instead of 95 %). So the residuals are
    flipped too, and the larger critical value is taken for interval and verdict alike.

    Args:
        differences: (n, m), setting minus baseline: a row a seed, a column a comparison; n >= 2.
        level: of the whole family, in (0, 1).

    Returns:
        The mean differences with their intervals and p-values; below `FEWEST_SEEDS` no interval can leave out zero.
    """
    n, mean = len(differences), differences.mean(axis=0)
    signs = sign_patterns(n)
    residuals = differences - mean
    # Rounding must not make a spread of what is one number.
    residuals[:, _is_constant(differences)] = 0
    largest = [np.sort(_abs_t(matrix, signs).max(axis=1))[::-1] for matrix in (differences, residuals)]
    critical = max(ordered[int((1 - level) * len(signs) + ROUNDING)] for ordered in largest)
    error = np.where(_is_constant(differences), 0, differences.std(axis=0, ddof=1)) / np.sqrt(n)
    half = np.full(len(mean), np.inf) if np.isinf(critical) else critical * error
    half = np.where((mean == 0) & (error == 0), 0, half)
    t = _abs_t(differences, signs[:1])[0]
    p = np.max([[(ordered >= value * (1 - ROUNDING)).mean() for value in t] for ordered in largest], axis=0)
    touching = (np.abs(mean) <= half * (1 + ROUNDING)) & (half > 0)  # an interval that ends at zero holds it
    half = np.where(touching, np.maximum(half, np.abs(mean)), half)
    return MaxT(mean, mean - half, mean + half, p)


def sign_patterns(n: int) -> np.ndarray:
    """Patterns of +1 and -1, (B, n), the first of them all +1: every one, or as many random ones by a fixed seed."""
    if n <= ALL_PATTERNS_UP_TO:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(RANDOM_PATTERNS - 1, n))
    return np.vstack([np.ones(n), drawn])


def _abs_t(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """|t| of each column under each pattern, (B, m); 0 for a column of zeros, inf for one of a single other number."""
    n = len(differences)
    mean = signs @ differences / n
    squares = (differences**2).sum(axis=0)
    variance = (squares - n * mean**2) / (n - 1)
    constant = variance <= 1e-12 * squares
    t = np.abs(mean) / np.sqrt(np.where(constant, 1, variance) / n)
    return np.where(constant, np.where(squares > 0, np.inf, 0), t)


def _is_constant(differences: np.ndarray) -> np.ndarray:
    return np.ptp(differences, axis=0) <= 1e-9 * np.abs(differences).max(axis=0)


MOST = 1000


def seeds_needed(mean: float, sd: float, comparisons: int, power: float = 0.8, level: float = 0.95) -> int | None:
    """The fewest seeds that show a difference with this probability, if the observed effect is the true one.

    By Student's paired t at Bonferroni's level, which no family needs more than: a rough figure, since the observed
    effect is itself uncertain, and optimistic for the largest of many.

    Args:
        mean: of the differences.
        sd: their standard deviation over the seeds.
        comparisons: the family's size, >= 1.
        power: the probability, in (0, 1).
        level: of the family.

    Returns:
        The number, at least `FEWEST_SEEDS`; None where it is above 1,000, or no difference was observed.
    """
    if mean == 0 or math.isnan(sd):
        return None
    if sd == 0:
        return FEWEST_SEEDS
    effect, tail = abs(mean) / sd, (1 - level) / (2 * comparisons)

    def reached(n: int) -> bool:
        return bool(stats.nct.sf(stats.t.isf(tail, n - 1), n - 1, effect * math.sqrt(n)) >= power)

    low, high = FEWEST_SEEDS, MOST
    if not reached(high):
        return None
    while low < high:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return low


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
