"""Higher, lower, by less than the margin, alike, not shown; and none from too few seeds."""

import math
from typing import Any

import numpy as np
import pytest

from losslab.report.verdicts import Verdict, compare
from losslab.study import SettingResults

KEYS = ["val/precision/macro", "val/recall/macro"]


def setting(label: str, *columns: list[float]) -> SettingResults:
    values = dict(zip(KEYS, columns, strict=True))
    return SettingResults(label, "a", {}, label, list(range(len(columns[0]))), values, [], [])


def test_verdicts_of_a_clear_and_of_no_difference() -> None:
    random = np.random.default_rng(0)
    base = random.normal(0.9, 0.01, size=(2, 8))
    baseline = setting("gamma=0", *base.tolist())
    up = setting("up", (base[0] + 0.05 + random.normal(0, 0.002, 8)).tolist(), base[1].tolist())
    down = setting("down", base[0].tolist(), (base[1] - 0.05 - random.normal(0, 0.002, 8)).tolist())
    family = compare([baseline, up, down], baseline, KEYS)
    assert family.size == 4
    words = {(v.setting, v.metric.split("/")[1]): v.word for v in family.verdicts}
    assert words == {
        ("up", "precision"): "higher",
        ("up", "recall"): "not shown",
        ("down", "precision"): "not shown",
        ("down", "recall"): "lower",
    }
    assert all((v.p <= 0.05) == (v.word != "not shown") for v in family.verdicts)
    assert "all 256 sign flips" in family.method
    assert "family of 4 comparisons" in family.method
    assert "at least 8 of the 8 seeds have its sign (a sign test at 0.05/4)" in family.method


def test_five_seeds_give_no_verdict_and_say_how_many_are_needed() -> None:
    baseline = setting("base", [0.1, 0.2, 0.3, 0.2, 0.1], [0.5] * 5)
    other = setting("other", [0.9, 0.95, 1.0, 0.97, 0.9], [0.5, 0.5, 0.5, 0.5, 0.51])
    family = compare([baseline, other], baseline, KEYS)
    large, small = family.verdicts
    assert {large.word, small.word} == {"not shown"}
    assert (large.low, large.high, large.p) == (-math.inf, math.inf, 1)
    assert small.needed is not None
    assert small.needed > 20
    assert large.hint == "needs 7 seeds"
    assert family.method == "No verdict on 2 comparisons below 7 paired seeds; there are 5."


def test_one_seed_and_no_other_setting() -> None:
    baseline = setting("base", [0.1], [0.2])
    family = compare([baseline, setting("other", [0.3], [0.2])], baseline, KEYS)
    assert [v.mean for v in family.verdicts] == pytest.approx([0.2, 0])
    assert family.shown == []
    alone = compare([baseline], baseline, KEYS)
    assert (alone.verdicts, alone.method) == ([], "There is nothing yet to compare with base.")


def one(differences: list[float], key: str = KEYS[1], **recalls: list[float]) -> Verdict:
    """The only verdict of a family of one, with a margin of one point; `recalls` of the setting's classes."""
    half = [0.5] * len(differences)
    recalls = recalls or {"cat": half}

    def result(label: str, values: list[float], of: dict[str, list[float]]) -> SettingResults:
        numbers = {key: values} | {f"val/recall/{name}": recall for name, recall in of.items()}
        return SettingResults(label, "a", {}, label, list(range(len(values))), numbers, list(of), [])

    baseline = result("base", half, dict.fromkeys(recalls, half))
    other = result("other", [0.5 + difference for difference in differences], recalls)
    return compare([other], baseline, [key], {key: 0.01}).verdicts[0]


SMALL = [0.001, 0.002, -0.001, 0.0, -0.002, 0.001, -0.001, 0.0005, -0.0015, 0.002, -0.002, 0.0]


def test_the_five_words() -> None:
    up = [0.03, 0.031, 0.029, 0.03, 0.032, 0.028, 0.03, 0.033, 0.027, 0.03, 0.031, 0.029]
    assert one(up).word == "higher"
    assert one([-d for d in up]).word == "lower"
    little = [d / 10 for d in up]
    assert one(little).word == "higher, by less than the margin"
    assert one([-d for d in little]).word == "lower, by less than the margin"
    assert one(SMALL).word == "alike"
    assert one([10 * d for d in SMALL]).word == "not shown"
    assert (one(little).better, one(little, "val/ece").better, one(SMALL).better) == (True, False, False)
    assert one([-d for d in little], "val/ece").better
    assert [one(d).hint == "" for d in (up, SMALL, [10 * d for d in SMALL])] == [True, True, False]


def test_one_seed_of_the_other_sign_or_without_a_difference_takes_a_verdict_away_in_a_family_of_ten() -> None:
    """The interval excludes zero in all three; twelve of twelve signs are asked for."""
    differences = np.array([0.03, 0.031, 0.029, 0.03, 0.032, 0.028, 0.03, 0.033, 0.027, 0.03, 0.031])
    for last, word in ((0.001, "higher"), (0.0, "not shown"), (-0.001, "not shown")):
        baseline = setting("base", [0.5] * 12, [0.5] * 12)
        other = setting("other", (0.5 + np.append(differences, last)).tolist(), [0.5] * 12)
        same = [setting(f"same {i}", [0.5] * 12, [0.5] * 12) for i in range(4)]
        verdict = compare([other, *same], baseline, KEYS).verdicts[0]
        assert verdict.low > 0
        assert (verdict.word, verdict.p <= 0.05) == (word, word == "higher")


def test_a_difference_of_the_size_of_rounding_is_none() -> None:
    verdict = one([1e-16, 1e-17, 2e-16, 1e-16, 1e-16, 3e-16])
    assert (verdict.above, verdict.below, verdict.mean) == (0, 0, 0)
    assert verdict.word == "alike"


def test_words_change_where_an_interval_ends_at_the_margin_or_at_zero() -> None:
    def word(low: float, high: float, **more: Any) -> str:
        median = {"median_low": low, "median_high": high} | more
        known = {"margin": 0.01, "collapsed": 0, "baseline_collapsed": 0} | median
        return Verdict("a", "val/f1/macro", (low + high) / 2, 0.01, low, high, 0.5, 12, None, **known).word

    assert word(0.0, 0.005) == "alike"
    assert word(1e-9, 0.005) == "higher, by less than the margin"
    assert word(1e-9, 0.01) == "higher"
    assert word(-0.01, 0.005) == "not shown"
    assert word(-0.00999, 0.005) == "alike"
    assert word(-0.005, 0.005, median_high=0.02) == "not shown"  # a difference of one seed lies beyond the margin
    assert word(0.001, 0.005, median_low=-0.001) == "alike"
    assert word(0.001, 0.005, margin=None) == "higher"
    assert word(-0.005, 0.005, margin=None) == "not shown"
    for guard in ({"collapsed": 1}, {"baseline_collapsed": 1}, {"collapsed": None}, {"skewed": True}):
        assert word(-0.005, 0.005, **guard) == "not shown"
        assert word(-0.005, -0.001, **guard) == "lower"


def test_a_collapse_is_never_alike() -> None:
    recalls = {"cat": [0.5] * 12, "dog": [0.9] * 11 + [0.0]}
    verdict = one(SMALL, **recalls)
    assert (verdict.collapsed, verdict.baseline_collapsed, verdict.word) == (1, 0, "not shown")
    assert verdict.collapses == "collapsed at 1 of 12 seeds"
    assert one(SMALL).collapses == "collapsed at 0 of 12 seeds, which excludes only rates above 22 %"
    assert one(SMALL, "test/acc").collapses == ""  # no class's recall on the test images is recorded


def test_skewed_differences_are_not_alike() -> None:
    verdict = one([0.0001 * d for d in (1, -1, 2, -2, 1, -1, 0, 1, -2, 1, -1, 60)])
    assert verdict.skewed
    assert verdict.word == "not shown"


def test_the_probability_of_better_follows_the_metrics_direction() -> None:
    differences = [0.01] * 9 + [-0.01, -0.01, 0.0]
    assert (one(differences).better_seeds, one(differences, "val/ece").better_seeds) == (9, 2)
    low, high = one(differences).better_interval
    assert (low, high) == pytest.approx((0.428, 0.945), abs=0.001)


def test_a_family_too_large_for_its_seeds_has_intervals_and_no_verdict() -> None:
    baseline = setting("base", [0.5] * 6, [0.5] * 6)
    other = setting("other", [0.8, 0.81, 0.79, 0.8, 0.82, 0.78], [0.5] * 6)
    verdict = compare([other], baseline, KEYS[:1]).verdicts[0]
    assert (verdict.word, verdict.decidable) == ("higher", True)
    family = compare([other], baseline, KEYS, dict.fromkeys(KEYS, 0.5))
    assert [(v.word, v.decidable) for v in family.verdicts] == [("not shown", False)] * 2
    assert family.verdicts[0].low > 0
    assert family.method == "No verdict on 2 comparisons below 7 paired seeds; there are 6."
