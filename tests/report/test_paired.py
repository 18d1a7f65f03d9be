"""The paired interval: SciPy's, with the coverage that it promises."""

import math

import numpy as np
import pytest
from scipy import stats

from losslab.report.paired import paired_difference


def test_it_is_students_interval_of_the_differences() -> None:
    a, b = [0.91, 0.95, 0.93, 0.97], [0.90, 0.91, 0.94, 0.92]
    ours = paired_difference(a, b)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.mean == pytest.approx(np.mean(a) - np.mean(b))
    corrected = paired_difference(a, b, comparisons=5)
    bonferroni = stats.ttest_rel(a, b).confidence_interval(1 - 0.05 / 5)
    assert (corrected.low, corrected.high) == pytest.approx((bonferroni.low, bonferroni.high))


def test_one_seed_shows_nothing() -> None:
    assert paired_difference([0.9], [0.1]).low == -math.inf
    assert not paired_difference([0.9], [0.1]).resolved


def test_a_family_of_null_comparisons_is_resolved_in_at_most_5_percent() -> None:
    random = np.random.default_rng(0)
    studies, settings, seeds = 2000, 5, 3
    wrong = 0
    for _ in range(studies):
        values = random.normal(size=(settings + 1, seeds))
        wrong += any(paired_difference(values[k], values[0], settings).resolved for k in range(1, settings + 1))
    assert wrong / studies <= 0.06


def test_a_large_difference_is_resolved() -> None:
    assert paired_difference([0.95, 0.96, 0.951], [0.90, 0.91, 0.902], comparisons=15).resolved
