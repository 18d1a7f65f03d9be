"""A result is written once, whole or not at all."""

import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from losslab.study import (
    class_groups,
    format_mean,
    group_keys,
    read_result,
    read_results,
    result_path,
    with_group_metrics,
    write_result,
)


def result(seed: int, label: str = "a", order: int = 0) -> dict:
    return {"label": label, "order": order, "seed": seed, "setting_hash": label, "metrics": {"val/acc": seed / 10}}


def test_the_second_writer_fails_and_changes_nothing(tmp_path: Path) -> None:
    path = result_path(tmp_path, "a", 1)
    assert write_result(path, result(1))
    first = path.read_bytes()
    assert not write_result(path, result(2))
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["1.json"]


def test_of_many_writers_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(1000))
    monkeypatch.setattr("os.getpid", lambda: next(numbers))  # each thread stands for a process
    path = result_path(tmp_path, "a", 1)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda seed: write_result(path, result(seed)), range(40)))
    assert sum(won) == 1
    assert json.loads(path.read_text())["seed"] == won.index(True)


def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    path = result_path(tmp_path, "a", 1)
    assert write_result(path, result(1))
    assert not write_result(path, result(2))
    assert read_result(path) == result(1)
    assert os.listdir(path.parent) == ["1.json"]


def test_what_is_not_whole_is_no_result(tmp_path: Path) -> None:
    path = result_path(tmp_path, "a", 1)
    write_result(path, result(1))
    path.write_text(path.read_text()[:-5])
    assert read_result(path) is None
    assert read_result(tmp_path / "nowhere.json") is None
    write_result(result_path(tmp_path, "b", 0), result(0, "b", order=1))
    write_result(result_path(tmp_path, "c", 3), result(3, "c", order=0))
    write_result(result_path(tmp_path, "c", 2), result(2, "c", order=0))
    assert [(r["label"], r["seed"]) for r in read_results(tmp_path)] == [("c", 2), ("c", 3), ("b", 0)]


def test_ten_classes_are_three_four_and_three_whatever_their_order() -> None:
    counts = {str(c): n for c, n in enumerate([5, 90, 30, 80, 10, 70, 20, 60, 50, 40])}
    groups = class_groups(counts)
    assert groups == {"head": ["1", "3", "5"], "middle": ["7", "8", "9", "2"], "tail": ["6", "4", "0"]}


@pytest.mark.parametrize("classes", range(2, 12))
def test_every_class_is_in_one_group(classes: int) -> None:
    counts = {f"c{c}": 2 ** (classes - c) for c in range(classes)}
    groups = class_groups(counts)
    assert sorted(name for part in groups.values() for name in part) == sorted(counts)
    assert len(groups["head"]) == len(groups["tail"]) >= 1


@pytest.mark.parametrize(
    ("key", "mean", "sd", "text"),
    [
        ("val/f1/macro", 0.9, 0.01, "90.00±1.00"),
        ("test/recall/3", 0.9, math.nan, "90.00"),
        ("val/ece", 0.0125, 0.001, "1.25±0.10"),
        ("val/loss", 0.31249, 0.0041234, "0.3125±0.0041"),
        ("val/loss", 12.5, math.nan, "12.5"),
        ("test/loss", 0.000012, 0.0000034, "1.2e-05±3.4e-06"),
    ],
)
def test_shares_are_in_percent_and_a_loss_in_its_own_units(key: str, mean: float, sd: float, text: str) -> None:
    assert format_mean(key, mean, sd) == text


def test_balanced_classes_have_no_tail() -> None:
    assert class_groups({"a": 100, "b": 51}) == {}
    assert class_groups({"a": 100, "b": 50}) == {"head": ["a"], "tail": ["b"]}
    assert class_groups({}) == {}


def test_a_class_that_bears_a_groups_name_is_not_shadowed() -> None:
    assert class_groups({"head": 100, "paw": 10}) == {}


def test_group_metrics_are_means_over_the_groups_classes() -> None:
    counts = {"a": 100, "b": 10, "c": 8, "d": 1, "e": 1, "f": 90}
    metrics = {f"val/{m}/{c}": v for m in ("precision", "recall") for c, v in zip("abcdef", range(6), strict=True)}
    extended = with_group_metrics(metrics, counts)
    assert extended["val/recall/tail"] == pytest.approx((3 + 4) / 2)
    assert extended["val/precision/head"] == pytest.approx((0 + 5) / 2)
    assert set(extended) - set(metrics) == {f"val/{key}" for key in group_keys(counts)}
    assert with_group_metrics(metrics, {}) == metrics
