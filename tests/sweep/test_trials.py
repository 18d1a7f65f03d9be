"""What the trials say: the best setting by the mean over its seeds, and what is queued once."""

import contextlib
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from losslab.study import StudyFile, planned_trials
from losslab.study.setting import SEEDS
from losslab.sweep.trials import Trials

RANGES = {"arm": CategoricalDistribution(("focal",)), "gamma": FloatDistribution(0, 9), "seed": SEEDS}
STORAGE: Any = SimpleNamespace(together=contextlib.nullcontext)


def trials(file: StudyFile) -> tuple[optuna.Study, Trials]:
    study = optuna.create_study(direction="maximize")
    return study, Trials(study, STORAGE, file)


def end(study: optuna.Study, gamma: float, seed: int | None, value: float | None, **attributes: Any) -> None:
    """Add a trial that was queued and has ended: with a value, or failed."""
    params = {"arm": "focal", "gamma": gamma} | ({} if seed is None else {"seed": seed})
    attributes |= {"queued": params, "setting_hash": f"hash of {gamma:g}"}
    study.add_trial(
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE, value=value, params=params,
            distributions={name: RANGES[name] for name in params}, user_attrs=attributes,
        )
    )  # fmt: skip


def grid(**given: Any) -> StudyFile:
    return StudyFile("x.yaml", {"focal": {}}, [0, 1], grid={"gamma": [0, 1, 2]}, monitor="val/acc", **given)


def test_the_best_setting_has_the_best_mean_among_those_with_the_most_seeds() -> None:
    study, known = trials(grid())
    assert known.best() is None
    end(study, 0, 0, 0.6)
    end(study, 1, 0, 0.9)
    known.read()
    assert known.best() == ("hash of 1", 0.9)
    end(study, 0, 1, 0.7)
    known.read()
    assert known.best() == ("hash of 0", pytest.approx(0.65))
    assert known.losers([("hash of 0", 0), ("hash of 1", 0)]) == []  # the second one may still become the best
    end(study, 1, 1, None, failure="NonFiniteLossError")
    end(study, 2, 0, 0.5)
    end(study, 2, 1, None)  # its process was lost: it is queued again
    known.read()
    keys = [(f"hash of {gamma}", seed) for gamma in (0, 1, 2) for seed in (0, 1)]
    assert known.losers(keys) == [("hash of 1", 0), ("hash of 1", 1)]
    assert known.setting("hash of 1").values == {"gamma": 1}


def test_of_equal_settings_the_first_is_the_best_whatever_their_hashes() -> None:
    """As in tables, so that the checkpoints that stay are those of the setting that the page names."""
    study, known = trials(grid())
    for gamma, name in ((0, "z"), (1, "a"), (2, "b")):
        for seed in (1, 0):
            params = {"arm": "focal", "gamma": gamma, "seed": seed}
            attributes = {"queued": params, "setting_hash": name}
            distributions = {name: RANGES[name] for name in params}
            value = (0.1, 0.2)[seed] if gamma < 2 else 0.1
            study.add_trial(
                create_trial(value=value, params=params, distributions=distributions, user_attrs=attributes)
            )
    known.read()
    assert known.best() == ("z", pytest.approx(0.15))
    assert known.losers([("z", 0), ("a", 0), ("b", 1)]) == [("a", 0), ("b", 1)]


def test_where_seeds_tune_the_best_of_each_stays_and_all_that_are_equal() -> None:
    study, known = trials(StudyFile("x.yaml", {"focal": {}}, [0, 1], tune={"gamma": [1, 2, 4]}, monitor="val/acc"))
    for gamma, values in {1: (0.5, 0.8), 2: (0.6, 0.8), 4: (0.5, 0.7)}.items():
        for seed, value in enumerate(values):
            end(study, gamma, seed, value)
    known.read()
    keys = [(f"hash of {gamma}", seed) for gamma in (1, 2, 4, 8) for seed in (0, 1)]
    assert known.losers(keys) == [("hash of 1", 0), ("hash of 4", 0), ("hash of 4", 1)]
    assert known.best() == ("hash of 2", pytest.approx(0.7))


def test_what_an_older_version_queued_for_all_seeds_counts_for_all_and_is_not_queued_again() -> None:
    study, known = trials(grid())
    end(study, 0, None, 0.6)
    end(study, 1, None, None)  # lost, and queued again
    end(study, 1, None, 0.7, retry_of=1)
    known.enqueue(planned_trials(grid()))
    known.enqueue(planned_trials(grid()))
    known.read()
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [trial.user_attrs["queued"] for trial in waiting] == [
        {"arm": "focal", "gamma": 2, "seed": seed} for seed in (0, 1)
    ]
    assert known.total() == 6
    assert known.best() == ("hash of 1", 0.7)
    assert known.losers([("hash of 0", 0), ("hash of 1", 1)]) == [("hash of 0", 0)]
