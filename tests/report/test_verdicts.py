"""Higher, lower, not shown; and none from too few seeds."""

import math

import numpy as np
import pytest

from losslab.report.verdicts import compare
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


def test_five_seeds_give_no_verdict_and_say_how_many_are_needed() -> None:
    baseline = setting("base", [0.1, 0.2, 0.3, 0.2, 0.1], [0.5] * 5)
    other = setting("other", [0.9, 0.95, 1.0, 0.97, 0.9], [0.5, 0.5, 0.5, 0.5, 0.51])
    family = compare([baseline, other], baseline, KEYS)
    large, small = family.verdicts
    assert {large.word, small.word} == {"not shown"}
    assert (large.low, large.high, large.p) == (-math.inf, math.inf, 1)
    assert large.hint == "needs 6 seeds"
    assert small.needed is not None
    assert small.needed > 20
    assert family.method == "No verdict below 6 paired seeds; there are 5."


def test_one_seed_and_no_other_setting() -> None:
    baseline = setting("base", [0.1], [0.2])
    family = compare([baseline, setting("other", [0.3], [0.2])], baseline, KEYS)
    assert [v.mean for v in family.verdicts] == pytest.approx([0.2, 0])
    assert family.shown == []
    assert compare([baseline], baseline, KEYS).verdicts == []
