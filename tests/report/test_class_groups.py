"""Head, middle and tail by training images."""

import pytest

from losslab.report.class_groups import class_groups, group_keys, with_group_metrics


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
