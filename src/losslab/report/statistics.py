"""Max-|t| over sign flips, the sign test, seeds needed to show a difference, Student's interval, reliability."""

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
ERROR = 0.05
"""Probability of any wrong statement in a family, of the sign test as of the intervals."""
SKEWED_FROM = 2.0
"""Sample skewness, in its standard errors for normal data, from which differences count as skewed."""
COLUMNS = 256
"""Comparisons whose |t| are in memory at once, under each of the sign patterns."""
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
        The mean differences with their intervals and p-values; below 6 seeds every interval includes zero.
    """
    n, mean = len(differences), differences.mean(axis=0)
    signs = sign_patterns(n)
    residuals = differences - mean  # (n, m)
    residuals[:, _is_constant(differences)] = 0  # equal differences have no spread, whatever rounding leaves
    largest = [np.sort(_largest_t(matrix, signs)) for matrix in (differences, residuals)]  # (B,) each
    critical = max(ordered[-1 - int((1 - level) * len(signs) + ROUNDING)] for ordered in largest)
    error = np.where(_is_constant(differences), 0, differences.std(axis=0, ddof=1)) / np.sqrt(n)
    half = np.full(len(mean), np.inf) if np.isinf(critical) else critical * error
    half = np.where((mean == 0) & (error == 0), 0, half)
    t = _abs_t(differences, signs[:1])[0]
    smaller = np.min([np.searchsorted(ordered, t * (1 - ROUNDING)) for ordered in largest], axis=0)  # patterns, (m,)
    p = (len(signs) - smaller) / len(signs)
    touching = (np.abs(mean) <= half * (1 + ROUNDING)) & (half > 0)  # an interval that ends at zero includes it
    half = np.where(touching, np.maximum(half, np.abs(mean)), half)
    return MaxT(mean, mean - half, mean + half, p)


def sign_patterns(n: int) -> np.ndarray:
    """Return patterns of +1 and -1, (B, n), the first all +1: all 2^n, or `RANDOM_PATTERNS` from a fixed seed."""
    if n <= ALL_PATTERNS_UP_TO:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(RANDOM_PATTERNS - 1, n))
    return np.vstack([np.ones(n), drawn])


def _largest_t(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return the largest |t| of all columns under each pattern, (B,)."""
    blocks = (differences[:, start : start + COLUMNS] for start in range(0, differences.shape[1], COLUMNS))
    return functools.reduce(np.maximum, (_abs_t(block, signs).max(axis=1) for block in blocks))


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


class SignTest(NamedTuple):
    """Sign tests of m comparisons and the intervals for the median that belong to them.

    Args:
        low, high: simultaneous intervals for the median difference, (m,); infinite below `fewest_seeds(m)`.
        p: Bonferroni's p-values, (m,); p <= `ERROR` exactly where the interval lies on the mean's side of zero.
    """

    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def sign_test(differences: np.ndarray) -> SignTest:
    """Test for each comparison that a seed's difference is as likely above zero as below, two-sided, at `ERROR` / m.

    The test assumes independent seeds, and nothing about the shape of the differences. A difference of zero counts
    against either direction, which keeps the error. The interval's ends are order statistics of the differences.

    Args:
        differences: (n, m), as for `max_t`.
    """
    n, m = differences.shape
    upward = np.where(differences.mean(axis=0) > 0, (differences > 0).sum(axis=0), (differences < 0).sum(axis=0))
    p = np.minimum(1, 2 * m * stats.binom.sf(upward - 1, n, 0.5))
    count, ordered = signs_needed(n, m), np.sort(differences, axis=0)
    if count > n:
        return SignTest(np.full(m, -np.inf), np.full(m, np.inf), p)
    return SignTest(ordered[n - count], ordered[count - 1], p)


def signs_needed(seeds: int | np.ndarray, comparisons: int) -> np.ndarray:
    """Return how many of the seeds must have a difference of one sign; more than there are if they are too few."""
    return (1 + stats.binom.isf(ERROR / (2 * comparisons), seeds, 0.5)).astype(int)


@functools.cache
def _signs_needed_up_to_most(comparisons: int) -> np.ndarray:
    """`signs_needed` for 1, 2 ... `MOST_SEEDS` seeds."""
    return signs_needed(np.arange(1, MOST_SEEDS + 1), comparisons)


def fewest_seeds(comparisons: int) -> int:
    """Return the fewest seeds at which a family of this size can show a difference: 6 for 1, 10 for 25, 12 for 102.

    n fair signs are all equal with probability 2^(1 - n), which may be `ERROR` / comparisons at most.
    """
    return 1 + math.ceil(math.log2(comparisons / ERROR))


def most_comparisons(seeds: int) -> int:
    """Return the largest family that can show a difference at this number of seeds; 0 below 6 seeds."""
    return int(ERROR * 2 ** (seeds - 1))


def is_skewed(differences: np.ndarray) -> np.ndarray:
    """Return for each column of differences (n, m) whether its skewness is `SKEWED_FROM` standard errors or more.

    The skewness is the adjusted Fisher-Pearson coefficient; its standard error is that of normal data. Equal numbers,
    and fewer than three, are not skewed.
    """
    n = len(differences)
    if n < 3:
        return np.zeros(differences.shape[1], bool)
    constant = _is_constant(differences)
    sd = np.where(constant, 1, differences.std(axis=0, ddof=1))
    skewness = n / ((n - 1) * (n - 2)) * (((differences - differences.mean(axis=0)) / sd) ** 3).sum(axis=0)
    error = math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))
    return ~constant & (np.abs(skewness) >= SKEWED_FROM * error)


@functools.cache
def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval for a probability (Clopper & Pearson 1934)."""
    low, high = stats.binomtest(successes, trials).proportion_ci(1 - ERROR, "exact")
    return float(low), float(high)


def seeds_needed(mean: float, sd: float, comparisons: int, power: float = 0.8) -> int | None:
    """Return the fewest seeds that show a difference with probability `power`, if the observed effect is the true one.

    Both conditions of a verdict must have this power for normal differences: Student's paired t at Bonferroni's level,
    in place of the interval, and the sign test. The less powerful condition alone decides nearly always, as the
    simulations of docs/statistics.md show. The observed effect is uncertain, and the largest of many is optimistic.

    Args:
        mean: mean of the differences.
        sd: their standard deviation over the seeds.
        comparisons: size of the family, >= 1.
        power: probability of showing the difference, in (0, 1).

    Returns:
        At least `fewest_seeds(comparisons)`; None above `MOST_SEEDS`, or if no difference was observed.
    """
    if mean == 0 or math.isnan(sd):
        return None
    fewest = fewest_seeds(comparisons)
    if sd == 0:
        return fewest
    effect, tail = abs(mean) / sd, ERROR / (2 * comparisons)

    def reached(n: int) -> bool:
        return bool(stats.nct.sf(stats.t.isf(tail, n - 1), n - 1, effect * math.sqrt(n)) >= power)

    if not reached(MOST_SEEDS):
        return None
    enough = fewest + bisect.bisect_left(range(fewest, MOST_SEEDS), True, key=reached)  # power of t grows with n
    # That of the sign test falls from n to n + 1 seeds if one more sign is needed.
    seeds, signs = np.arange(enough, MOST_SEEDS + 1), _signs_needed_up_to_most(comparisons)[enough - 1 :]
    sufficient = stats.binom.sf(signs - 1, seeds, stats.norm.cdf(effect)) >= power
    return int(seeds[sufficient.argmax()]) if sufficient.any() else None


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
