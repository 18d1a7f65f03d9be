"""Max-|t| over sign flips, seeds needed to show a difference, Student's interval, reliability of probabilities."""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from losslab.metrics import ECE_BINS
from losslab.report.figure import number

ALL_PATTERNS_UP_TO = 12
"""Up to this number of seeds all sign patterns are used; above, RANDOM_PATTERNS random ones."""
RANDOM_PATTERNS = 10_000
FEWEST_SEEDS = 6
"""Of the 2^n patterns of n seeds, two are as extreme as data of one sign: 2 / 64 is the first share below 0.05."""
MOST_SEEDS = 1000
"""The largest number that `seeds_needed` returns."""
ROUNDING = 1e-9
"""Two |t| whose relative difference is smaller are equal."""


class MaxT(NamedTuple):
    """Means, intervals and p-values of m comparisons.

    Args:
        mean: mean differences, (m,).
        low, high: simultaneous intervals, (m,); infinite if there are too few sign patterns.
        p: p-values adjusted for the family, (m,); p <= 1 - level exactly where the interval excludes zero.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def max_t(differences: np.ndarray, level: float = 0.95) -> MaxT:
    """Compute simultaneous intervals and adjusted p-values (Westfall & Young 1993, single step, section 2.5).

    Under a comparison's null hypothesis each difference is equally likely with either sign. All comparisons of a seed
    flip together, which keeps their correlation, and each |t| is compared with the largest |t| over the family. This
    test controls the family-wise error exactly, whichever hypotheses hold.

    Intervals from these flips alone cover too little: flipping a real effect inflates the spread, so the critical
    value falls below that of the errors (ten true effects of 5 sd at 6 seeds: 73 % instead of 95 %). So the residuals
    are flipped too, and the larger critical value serves both interval and verdict.

    Args:
        differences: (n, m), setting minus baseline, one row per seed, one column per comparison; n >= 2.
        level: confidence level of the whole family, in (0, 1).

    Returns:
        The mean differences with their intervals and p-values; below `FEWEST_SEEDS` every interval includes zero.
    """
    n, mean = len(differences), differences.mean(axis=0)
    signs = sign_patterns(n)
    residuals = differences - mean  # (n, m)
    residuals[:, _is_constant(differences)] = 0  # equal differences have no spread, whatever rounding leaves
    largest = [np.sort(_abs_t(matrix, signs).max(axis=1))[::-1] for matrix in (differences, residuals)]  # (B,) each
    critical = max(ordered[int((1 - level) * len(signs) + ROUNDING)] for ordered in largest)
    error = np.where(_is_constant(differences), 0, differences.std(axis=0, ddof=1)) / np.sqrt(n)
    half = np.full(len(mean), np.inf) if np.isinf(critical) else critical * error
    half = np.where((mean == 0) & (error == 0), 0, half)
    t = _abs_t(differences, signs[:1])[0]
    p = np.max([[(ordered >= value * (1 - ROUNDING)).mean() for value in t] for ordered in largest], axis=0)
    touching = (np.abs(mean) <= half * (1 + ROUNDING)) & (half > 0)  # an interval that ends at zero includes it
    half = np.where(touching, np.maximum(half, np.abs(mean)), half)
    return MaxT(mean, mean - half, mean + half, p)


def sign_patterns(n: int) -> np.ndarray:
    """Return patterns of +1 and -1, (B, n), the first all +1: all 2^n, or `RANDOM_PATTERNS` from a fixed seed."""
    if n <= ALL_PATTERNS_UP_TO:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(RANDOM_PATTERNS - 1, n))
    return np.vstack([np.ones(n), drawn])


def _abs_t(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """|t| of each column under each pattern, (B, m); 0 for a column of zeros, inf for one of equal other numbers."""
    n = len(differences)
    mean = signs @ differences / n  # (B, m)
    squares = (differences**2).sum(axis=0)  # (m,)
    variance = (squares - n * mean**2) / (n - 1)  # (B, m)
    constant = variance <= 1e-12 * squares
    t = np.abs(mean) / np.sqrt(np.where(constant, 1, variance) / n)
    return np.where(constant, np.where(squares > 0, np.inf, 0), t)


def _is_constant(differences: np.ndarray) -> np.ndarray:
    return np.ptp(differences, axis=0) <= 1e-9 * np.abs(differences).max(axis=0)


def seeds_needed(mean: float, sd: float, comparisons: int, power: float = 0.8, level: float = 0.95) -> int | None:
    """Return the fewest seeds that show a difference with probability `power`, if the observed effect is the true one.

    The estimate uses Student's paired t at Bonferroni's level, an upper bound for any family. It is rough, since the
    observed effect is uncertain, and optimistic for the largest of many effects.

    Args:
        mean: mean of the differences.
        sd: their standard deviation over the seeds.
        comparisons: size of the family, >= 1.
        power: probability of showing the difference, in (0, 1).
        level: confidence level of the family.

    Returns:
        At least `FEWEST_SEEDS`; None above `MOST_SEEDS`, or if no difference was observed.
    """
    if mean == 0 or math.isnan(sd):
        return None
    if sd == 0:
        return FEWEST_SEEDS
    effect, tail = abs(mean) / sd, (1 - level) / (2 * comparisons)

    def reached(n: int) -> bool:
        return bool(stats.nct.sf(stats.t.isf(tail, n - 1), n - 1, effect * math.sqrt(n)) >= power)

    if not reached(MOST_SEEDS):
        return None
    return FEWEST_SEEDS + bisect.bisect_left(range(FEWEST_SEEDS, MOST_SEEDS), True, key=reached)  # power grows with n


def half_width(values: Sequence[float]) -> float:
    """Return half of Student's 95 % interval for the mean over the seeds; NaN for one seed."""
    n = len(values)
    return float(_quantile(n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")


@functools.cache
def _quantile(degrees: int) -> float:
    return float(stats.t.ppf(0.975, degrees))


def mean_and_spread(values: Sequence[float], spread: float) -> str:
    """Format as "0.9123 ± 0.0045"; without the spread if it is NaN, as for one seed."""
    return number(float(np.mean(values))) + ("" if math.isnan(spread) else f" ± {spread:.4f}")


class Reliability(NamedTuple):
    """Calibration of predicted probabilities, in B bins of confidence.

    Args:
        confidence: mean confidence of each bin, (B,); NaN for an empty bin.
        accuracy: share of correct predictions in each bin, (B,); NaN for an empty bin.
        share: share of the images in each bin, (B,).
        ece: mean gap between confidence and accuracy, weighted by share; in [0, 1].
        brier: mean of sum_k (p_k - [k is the label])^2, in [0, 2] (Brier 1950).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    ece: float
    brier: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> Reliability:
    """Measure probabilities (N, C) against labels (N,); the bins divide the largest probability evenly."""
    confidence, right = probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == labels  # (N,) both
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, right, bins) / count
    share = count / len(labels)
    one_hot = np.eye(probabilities.shape[1])[labels]  # (N, C)
    brier = float(((probabilities - one_hot) ** 2).sum(axis=1).mean())
    return Reliability(mean, accuracy, share, float(np.nansum(share * np.abs(mean - accuracy))), brier)
