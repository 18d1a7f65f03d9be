"""Sign flips are exact if exhaustive, intervals cover and agree with the test, seeds and reliability are right."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import brier_score_loss

from losslab.metrics import classification_metrics
from losslab.report import reliability
from losslab.report.statistics import RANDOM_PATTERNS, _abs_t, max_t, seeds_needed, sign_patterns


def draw(random: np.random.Generator, seeds: int, comparisons: int, correlation: float = 0.5) -> np.ndarray:
    """Differences without an effect, of sd 1, correlated like differences from one baseline."""
    common, own = random.normal(size=(seeds, 1)), random.normal(size=(seeds, comparisons))
    return correlation**0.5 * common + (1 - correlation) ** 0.5 * own


def test_all_patterns_up_to_12_seeds_then_the_same_random_ones_each_time() -> None:
    for n in (2, 6, 12):
        assert len(np.unique(sign_patterns(n), axis=0)) == 2**n
    many = sign_patterns(13)
    assert many.shape == (RANDOM_PATTERNS, 13)
    assert set(np.unique(many)) == {-1, 1}
    assert (many == sign_patterns(13)).all()
    assert (many[0] == 1).all()


def test_one_comparison_is_scipys_permutation_test() -> None:
    """p is the larger one of the flips of differences and of residuals; scipy's test flips the differences only."""
    differences = np.random.default_rng(3).normal(0.3, 1, size=(9, 1))

    def abs_t(x: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(x.mean(axis=axis)) / (x.std(axis=axis, ddof=1) / x.shape[axis] ** 0.5)

    theirs = stats.permutation_test(
        (differences[:, 0],), abs_t, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert max_t(differences).p[0] >= theirs.pvalue - 1e-12
    flips = np.array([abs_t(differences * np.reshape(s, (-1, 1)), 0)[0] for s in itertools.product((1, -1), repeat=9)])
    assert theirs.pvalue == pytest.approx((flips >= abs_t(differences, 0)[0] * (1 - 1e-9)).mean())


def test_the_adjusted_p_is_that_of_westfall_and_young_by_hand() -> None:
    differences = draw(np.random.default_rng(0), 7, 4) + np.array([0, 0.4, 0, 0.9])

    def by_hand(matrix: np.ndarray) -> np.ndarray:
        largest = []
        for signs in itertools.product((1, -1), repeat=7):
            flipped = matrix * np.reshape(signs, (-1, 1))
            largest.append(np.abs(stats.ttest_1samp(flipped, 0, axis=0).statistic).max())
        observed = np.abs(stats.ttest_1samp(differences, 0, axis=0).statistic)
        return np.array([(np.array(largest) >= t - 1e-9).mean() for t in observed])

    expected = np.maximum(by_hand(differences), by_hand(differences - differences.mean(axis=0)))
    assert max_t(differences).p == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_fewer_than_six_seeds_can_show_nothing(seeds: int) -> None:
    result = max_t(np.random.default_rng(0).normal(10, 0.1, size=(seeds, 3)))
    assert (result.low <= 0).all()
    assert (result.p > 0.05).all()


def test_six_seeds_of_one_sign_can() -> None:
    result = max_t(np.random.default_rng(0).normal(10, 0.1, size=(6, 1)))
    assert result.low[0] > 0
    assert result.p[0] == pytest.approx(2 / 64)


@pytest.mark.parametrize("seeds", [6, 7, 13])
def test_interval_and_p_never_disagree(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    shown = 0
    for _ in range(40 if seeds == 13 else 300):
        # Rounded, as metrics of few images are: equal numbers and ties are the rule.
        differences = np.round(draw(random, seeds, 3) + random.choice([0, 1.5], size=3), 0)
        result = max_t(differences)
        leaves_out_zero = (result.low > 0) | (result.high < 0)
        assert (leaves_out_zero == (result.p <= 0.05)).all()
        shown += leaves_out_zero.sum()
    assert shown > 10


def test_differences_that_are_one_number_or_none() -> None:
    differences = np.zeros((6, 3))
    differences[:, 1] = 0.1
    differences[:, 2] = np.random.default_rng(0).normal(size=6)
    result = max_t(differences)
    assert (result.low[0], result.high[0], result.p[0]) == (0, 0, 1)
    assert result.low[1] > 0
    assert np.isfinite(result.p).all()
    assert not np.isnan(result.low).any()


def test_scale_and_sign_do_not_matter() -> None:
    differences = draw(np.random.default_rng(5), 8, 3) + 1
    one, other = max_t(differences), max_t(-1e-4 * differences)
    assert other.p == pytest.approx(one.p)
    assert other.high == pytest.approx(-1e-4 * one.low)


@pytest.mark.parametrize(("seeds", "comparisons"), [(6, 1), (6, 10), (10, 10)])
@pytest.mark.parametrize("effect", ["none", "all", "half"])
def test_simulated_coverage_error_and_power(seeds: int, comparisons: int, effect: str) -> None:
    """Of 600 studies: the intervals hold all true effects in 95 %, and a null is called a difference in at most 5 %."""
    random = np.random.default_rng(seeds * comparisons)
    true = {"none": 0.0, "all": 5.0, "half": 5.0}[effect] * np.ones(comparisons)
    if effect == "half":
        true[::2] = 0
    studies, covered, wrong, found = 600, 0, 0, 0.0
    for _ in range(studies):
        result = max_t(true + draw(random, seeds, comparisons))
        covered += bool(((result.low <= true) & (true <= result.high)).all())
        shown = (result.low > 0) | (result.high < 0)
        wrong += bool(shown[true == 0].any())
        found += shown[true != 0].mean() if effect != "none" and (true != 0).any() else 0
    print(f"coverage {covered / studies:.3f}, wrong {wrong / studies:.3f}, power {found / studies:.3f}")
    error = 3 * (0.05 * 0.95 / studies) ** 0.5
    assert covered / studies >= 0.95 - error
    assert wrong / studies <= 0.05 + error
    if (true != 0).any():
        assert found / studies >= 0.95


def test_flips_of_the_differences_alone_would_cover_too_little() -> None:
    """The reason for flipping the residuals too; without them the simulation above fails."""
    true, random, covered = 5 * np.ones(10), np.random.default_rng(60), 0
    for _ in range(300):
        differences = true + draw(random, 6, 10)
        largest = np.sort(_abs_t(differences, sign_patterns(6)).max(axis=1))[::-1]
        half = largest[3] * differences.std(axis=0, ddof=1) / 6**0.5
        covered += bool((np.abs(differences.mean(axis=0) - true) <= half).all())
    assert covered / 300 < 0.85


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


def test_ece_is_the_recorded_metric_and_brier_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    logits, labels = torch.from_numpy(random.normal(0, 3, size=(400, 5))), torch.from_numpy(random.integers(0, 5, 400))
    measured = reliability(logits.softmax(dim=1).numpy(), labels.numpy())
    recorded = classification_metrics(logits, labels, "abcde")["ece"]
    assert measured.ece == pytest.approx(float(recorded), abs=1e-6)
    theirs = brier_score_loss(labels.numpy(), logits.softmax(dim=1).numpy(), scale_by_half=False, labels=range(5))
    assert measured.brier == pytest.approx(theirs)


def test_shares_are_a_distribution_and_empty_bins_are_nan() -> None:
    measured = reliability(np.array([[1.0, 0.0], [0.55, 0.45], [0.9, 0.1]]), np.array([0, 1, 0]))
    assert measured.share.sum() == pytest.approx(1)
    assert np.isnan(measured.accuracy[measured.share == 0]).all()
    assert measured.confidence[-1] == pytest.approx(1)
    assert measured.ece == pytest.approx((0.55 + 0.1 + 0) / 3)
    assert measured.brier == pytest.approx((0 + 2 * 0.55**2 + 2 * 0.01) / 3)
