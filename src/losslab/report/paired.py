"""Differences between two settings that were trained with the same seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """Mean difference over `n` seeds, and its confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    setting: Sequence[float], baseline: Sequence[float], comparisons: int = 1, level: float = 0.95
) -> Difference:
    """Student's t interval for the mean of setting - baseline, paired by seed.

    The seeds are the sample: the interval speaks of other seeds on the same split, not of other images.

    Args:
        setting: a metric, one value for each of n seeds.
        baseline: the same of the other setting, for the same seeds in the same order.
        comparisons: size of the family of intervals that shall hold together (Bonferroni); >= 1.
        level: of the whole family, in (0, 1).

    Returns:
        The difference; its interval is infinite for n < 2.
    """
    differences = np.asarray(setting, dtype=float) - np.asarray(baseline, dtype=float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Difference(mean, -math.inf, math.inf, n)
    half = stats.t.ppf(1 - (1 - level) / (2 * comparisons), n - 1) * differences.std(ddof=1) / math.sqrt(n)
    return Difference(mean, mean - float(half), mean + float(half), n)
