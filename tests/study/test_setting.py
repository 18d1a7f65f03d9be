"""What a study trains: the values beyond the end of a tuned list, and the points that are drawn for each seed."""

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, create_trial

from losslab.study import Planned, Setting, StudyFile, planned_trials, settings_to_check
from losslab.study.setting import EXTENSIONS, SEEDS, next_value, tuning_extensions, tuning_range

VALUES = [0.001, 0.003, 0.009]


def test_the_range_ends_eight_values_beyond_either_end() -> None:
    low, high = tuning_range(VALUES)
    assert EXTENSIONS == 8
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
    study = StudyFile("x.yaml", {"focal": {}}, [0], tune={"lr": VALUES}, tune_per="study", monitor=monitor)
    ranges = {"arm": CategoricalDistribution(("focal",)), "lr": FloatDistribution(*tuning_range(VALUES), log=True)}
    trials = [
        create_trial(params={"arm": "focal", "lr": lr}, distributions=ranges, value=value)
        for lr, value in zip(VALUES, (0.9, 0.5, 0.1), strict=True)
    ]
    (planned,) = tuning_extensions(study, trials, trials)
    assert planned.setting.values == {"lr": pytest.approx(further, rel=1e-4)}
    assert planned.seed == 0


def test_one_value_for_all_seeds_is_chosen_by_the_mean_over_them_among_the_values_that_have_all() -> None:
    study = StudyFile("x.yaml", {"focal": {}}, [0, 1], tune={"lr": DOUBLING}, tune_per="study", monitor="val/acc")
    trials = [
        *trained(0, dict(zip(DOUBLING, (0.1, 0.1, 0.6), strict=True))),
        *trained(1, dict(zip(DOUBLING, (0.2, 0.95, 0.6), strict=True))),
    ]
    further = tuning_extensions(study, trials, trials)  # by the best training alone it would be the inner value
    assert [(each.seed, each.setting.values["lr"]) for each in further] == [(0, 0.008), (1, 0.008)]
    assert tuning_extensions(study, trials[:-1], trials) == []  # the last value failed at seed 1
    old = [_without_seed(0.001, 0.15), _without_seed(0.002, 0.525), _without_seed(0.004, 0.6)]
    assert tuning_extensions(study, old, old) == further  # of a version whose trials had all seeds


def _without_seed(rate: float, mean: float) -> FrozenTrial:
    (trial,) = trained(0, {rate: mean})
    del trial.params["seed"]
    return trial


def test_each_end_has_its_own_ratio() -> None:
    assert next_value([0.01, 0.02, 0.2], [], 0.2) == pytest.approx(2.0)
    assert next_value([0.01, 0.02, 0.2], [], 0.01) == pytest.approx(0.005)


DOUBLING = [0.001, 0.002, 0.004]


def trained(seed: int, scores: dict[float, float], arm: str = "focal") -> list[FrozenTrial]:
    """The completed trials of an arm at a seed, with these scores by learning rate."""
    low, high = tuning_range(DOUBLING)
    ranges = {"arm": CategoricalDistribution(("focal", "dice")), "lr": FloatDistribution(low, high, log=True)}
    return [
        create_trial(params={"arm": arm, "lr": lr, "seed": seed}, distributions={**ranges, "seed": SEEDS}, value=score)
        for lr, score in scores.items()
    ]


def test_a_list_is_extended_for_an_arm_at_the_seeds_whose_best_lies_at_an_end_and_not_at_others() -> None:
    study = StudyFile("x.yaml", {"focal": {}, "dice": {}}, [0, 1, 2], tune={"lr": DOUBLING})
    rising, falling, inner = ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.3, 0.2])
    scores = {(0, "focal"): rising, (1, "focal"): falling, (2, "focal"): inner, (0, "dice"): inner, (2, "dice"): rising}
    trials = [
        trial
        for (seed, arm), values in scores.items()
        for trial in trained(seed, dict(zip(DOUBLING, values, strict=True)), arm)
    ]
    further = tuning_extensions(study, trials, trials)
    assert {(each.seed, each.setting.arm): each.setting.values["lr"] for each in further} == {
        (0, "focal"): 0.008,
        (1, "focal"): 0.0005,
        (2, "dice"): 0.008,
    }


def test_a_seeds_list_ends_with_the_range() -> None:
    study = StudyFile("x.yaml", {"focal": {}, "dice": {}}, [0], tune={"lr": DOUBLING})
    scores = dict(zip(DOUBLING, (0.1, 0.2, 0.3), strict=True))
    while further := tuning_extensions(study, trained(0, scores), trained(0, scores)):
        (planned,) = further
        scores[planned.setting.values["lr"]] = 0.3 + len(scores) / 100
    assert max(scores) == pytest.approx(0.004 * 2**EXTENSIONS)
    assert len(scores) == len(DOUBLING) + EXTENSIONS


def test_a_trial_of_a_finite_study_is_one_training() -> None:
    study = StudyFile("x.yaml", {"a": {}, "b": {}}, [3, 5], grid={"g": [0, 1]}, tune={"lr": DOUBLING})
    planned = planned_trials(study)
    assert [each.seed for each in planned] == [3] * 12 + [5] * 12
    assert planned[0] == Planned(Setting("a", {"g": 0, "lr": 0.001}), 3)
    assert len({str(each) for each in planned}) == 24
    assert planned[0].parameters(study) == {"arm": "a", "g": 0, "lr": 0.001, "seed": 3}
    once = StudyFile("x.yaml", {"a": {}, "b": {}}, [3, 5], grid={"g": [0, 1]}, tune={"lr": DOUBLING}, tune_per="study")
    assert planned_trials(once) == planned
    pruned = StudyFile("x.yaml", {"a": {}, "b": {}}, [3, 5], grid={"g": [0, 1]}, pruner=NopPruner())
    assert [each.seed for each in planned_trials(pruned)] == [None] * 4  # a pruner stops settings, with all their seeds


DRAWN: dict[str, Any] = {
    "arms": {"plain": {}, "focal": {}},
    "seeds": [*range(40)],
    "tune": {"lr": FloatDistribution(0.001, 0.1, log=True)},
    "arm_tune": {"focal": {"gamma": FloatDistribution(0.0, 5.0)}},
    "draws": 4,
}


def drawn(study: StudyFile) -> dict[tuple[int | None, str], list[dict[str, float]]]:
    points: dict[tuple[int | None, str], list[dict[str, float]]] = {}
    for each in planned_trials(study):
        points.setdefault((each.seed, each.setting.arm), []).append(each.setting.values)
    return points


def test_the_arms_share_the_drawn_rates_of_a_seed_and_another_seed_has_others() -> None:
    points = drawn(StudyFile("x.yaml", **DRAWN))
    assert {len(values) for values in points.values()} == {4}
    rates = [[point["lr"] for point in points[seed, "plain"]] for seed in range(40)]
    assert rates == [[point["lr"] for point in points[seed, "focal"]] for seed in range(40)]
    assert len({tuple(of_seed) for of_seed in rates}) == 40
    assert [*points[0, "plain"][0]] == ["lr"]
    assert [*points[0, "focal"][0]] == ["lr", "gamma"]
    assert len({point["gamma"] for seed in range(40) for point in points[seed, "focal"]}) > 150
    further = drawn(StudyFile("x.yaml", **DRAWN | {"seeds": [0, 7], "arms": {"focal": {}, "plain": {}, "third": {}}}))
    assert further[7, "focal"] == points[7, "focal"]  # whatever else the study has
    assert further[7, "third"] == points[7, "plain"]


def test_drawn_values_lie_within_the_ends_and_each_quarter_of_the_range_has_one() -> None:
    points = drawn(StudyFile("x.yaml", **DRAWN))
    quarter = 100 ** (1 / 4)  # of the logarithm's width
    for seed in range(40):
        rates = [point["lr"] for point in points[seed, "focal"]]
        assert all(0.001 <= rate <= 0.1 for rate in rates)
        for n in range(4):
            assert sum(0.001 * quarter**n <= rate < 0.001 * quarter ** (n + 1) for rate in rates) == 1
        gammas = [point["gamma"] for point in points[seed, "focal"]]
        assert all(0 <= gamma <= 5 for gamma in gammas)
        assert {int(gamma / 5 * 3) for gamma in gammas[:3]} == {0, 1, 2}


def test_every_process_draws_the_same_points() -> None:
    points = drawn(StudyFile("x.yaml", **DRAWN))
    assert {0.00136179, 0.0136179} < {point["lr"] for point in points[3, "plain"]}  # of another process


def test_the_ends_of_what_is_drawn_are_checked_before_the_first_training() -> None:
    checked = settings_to_check(StudyFile("x.yaml", **DRAWN))
    assert [(each.arm, each.values) for each in checked] == [
        ("plain", {"lr": 0.001}),
        ("plain", {"lr": 0.1}),
        ("focal", {"lr": 0.001, "gamma": 0.0}),
        ("focal", {"lr": 0.1, "gamma": 5.0}),
    ]
