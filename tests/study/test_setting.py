"""The values that are tried beyond the end of a tuned list."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from losslab.study import StudyFile
from losslab.study.setting import EXTENSIONS, next_value, tuning_extensions, tuning_range

VALUES = [0.001, 0.003, 0.009]


def test_the_range_ends_three_values_beyond_either_end() -> None:
    low, high = tuning_range(VALUES)
    assert low == pytest.approx(0.001 / 3**EXTENSIONS, rel=1e-5)
    assert high == pytest.approx(0.009 * 3**EXTENSIONS, rel=1e-5)


def test_an_inner_best_value_is_an_answer() -> None:
    assert next_value(VALUES, VALUES, 0.003) is None


@pytest.mark.parametrize("end", [0, -1])
def test_from_either_end_the_next_values_follow_in_the_same_ratio_and_end_with_the_range(end: int) -> None:
    tried, best = list(VALUES), VALUES[end]
    while (value := next_value(VALUES, tried, best)) is not None:
        assert max(value / best, best / value) == pytest.approx(3, rel=1e-4)
        tried.append(value)
        best = value
    assert len(tried) == len(VALUES) + EXTENSIONS
    assert best in tuning_range(VALUES)


def test_a_best_value_whose_outer_neighbour_was_tried_is_an_answer() -> None:
    further = next_value(VALUES, VALUES, 0.009)
    assert further is not None
    assert next_value(VALUES, [*VALUES, further], 0.009) is None  # also where `further` failed


@pytest.mark.parametrize(("monitor", "further"), [("val/loss", 0.027), ("val/acc", 0.001 / 3)])
def test_a_list_is_extended_where_the_metric_is_better(monitor: str, further: float) -> None:
    study = StudyFile("x.yaml", {"focal": {}}, [0], tune={"lr": VALUES}, monitor=monitor)
    ranges = {"arm": CategoricalDistribution(("focal",)), "lr": FloatDistribution(*tuning_range(VALUES), log=True)}
    trials = [
        create_trial(params={"arm": "focal", "lr": lr}, distributions=ranges, value=value)
        for lr, value in zip(VALUES, (0.9, 0.5, 0.1), strict=True)
    ]
    (setting,) = tuning_extensions(study, trials, trials)
    assert setting.values == {"lr": pytest.approx(further, rel=1e-4)}


def test_each_end_has_its_own_ratio() -> None:
    assert next_value([0.01, 0.02, 0.2], [], 0.2) == pytest.approx(2.0)
    assert next_value([0.01, 0.02, 0.2], [], 0.01) == pytest.approx(0.005)
