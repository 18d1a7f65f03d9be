"""The number of seeds that an effect asks for is the number that shows it."""

import math

import numpy as np
import pytest
from scipy import stats

from losslab.report.seeds_needed import seeds_needed
from losslab.report.sign_flips import max_t


def test_it_is_the_paired_t_tests_power() -> None:
    n = seeds_needed(0.8, 1.0, comparisons=1)
    assert n is not None

    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, 0.8 * n**0.5))

    assert power(n - 1) < 0.8 <= power(n)
    assert n == 15  # tables of the paired t test's power: 80 % at d = 0.8


def test_more_comparisons_and_smaller_effects_need_more() -> None:
    assert seeds_needed(0.5, 1, 10) > seeds_needed(0.5, 1, 1) > seeds_needed(1, 1, 1)
    assert seeds_needed(-0.5, 1, 1) == seeds_needed(0.5, 1, 1)


def test_no_effect_one_seed_and_effects_too_small() -> None:
    assert seeds_needed(0, 1, 1) is None
    assert seeds_needed(1, math.nan, 1) is None
    assert seeds_needed(0.01, 1, 1) is None
    assert seeds_needed(1, 0, 1) == 6
    assert seeds_needed(100, 1, 50) == 6


@pytest.mark.parametrize("effect", [1.2, 1.6])
def test_that_many_seeds_show_the_effect_in_a_simulation(effect: float) -> None:
    n = seeds_needed(effect, 1.0, comparisons=3)
    assert n is not None
    random = np.random.default_rng(0)
    shown = [max_t(effect + random.normal(size=(n, 3))).low[0] > 0 for _ in range(200)]
    print(f"{n} seeds: power {np.mean(shown):.2f}")
    assert np.mean(shown) >= 0.7
