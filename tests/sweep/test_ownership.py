"""A process that is gone is known to be gone, also when its number is used again."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.sweep import ownership as lease_module
from losslab.sweep.ownership import (
    Lease,
    LeaseLostError,
    is_dead,
    may_meet_another,
    requeue_lost,
    this_process,
    waits_for_another,
)
from losslab.sweep.storage import Journal, open_storage


def test_this_process_lives() -> None:
    assert not is_dead(this_process())


def test_an_ended_process_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    owner = this_process() | {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    assert not is_dead(owner)
    child.kill()
    child.wait()
    assert is_dead(owner)


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    assert is_dead(this_process() | {"started": this_process()["started"] - 100})
    assert is_dead(this_process() | {"boot": "another boot"})


def test_a_process_on_another_host_counts_as_alive_and_a_missing_mark_as_dead() -> None:
    assert not is_dead(this_process() | {"host": "elsewhere", "pid": 1})
    assert is_dead(None)


ELSEWHERE = {"host": "elsewhere", "pid": 1, "boot": "another", "started": 0.0}


@pytest.fixture
def storage(own_folder: Path) -> Journal:
    return open_storage("journal", own_folder)  # type: ignore[return-value]


@pytest.fixture
def study(storage: Journal) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=storage)


def asked(study: optuna.Study, **attributes: Any) -> Trial:
    """A trial of x = 1 with these attributes."""
    study.enqueue_trial({"x": 1.0}, {"queued": {"x": 1.0}})
    trial = study.ask()
    trial.suggest_float("x", 0.0, 2.0)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def stored(study: optuna.Study, trial: Trial) -> FrozenTrial:
    return study.get_trials()[trial.number]


def test_a_trial_on_another_machine_is_given_away_when_it_is_not_renewed(study: optuna.Study, storage: Journal) -> None:
    lease, now = Lease(storage), time.time()
    fresh = asked(study, owner=ELSEWHERE, renewed=now - 100)
    late = asked(study, owner=ELSEWHERE, renewed=now - 130)
    assert not lease.is_lost(stored(study, fresh))
    assert lease.is_lost(stored(study, late))
    storage.answers_since = now - 10  # it had been away: nobody could renew
    assert not lease.is_lost(stored(study, late))


def test_this_process_has_what_it_holds_and_nothing_else(study: optuna.Study, storage: Journal) -> None:
    lease, trial = Lease(storage), asked(study)
    lease.hold(trial)
    assert not lease.is_lost(stored(study, trial))
    assert Lease(storage).is_lost(stored(study, trial))
    lease.release(trial)
    assert lease.is_lost(stored(study, trial))


def test_what_is_held_at_the_end_is_given_back(study: optuna.Study, storage: Journal) -> None:
    with Lease(storage) as lease:
        lease.hold(trial := asked(study))
        lease.hold(finished := asked(study))
        lease.release(finished)
    assert "stopped" not in stored(study, finished).user_attrs
    assert stored(study, trial).user_attrs["stopped"]


def test_a_lease_is_renewed_until_its_trial_hangs_or_is_taken(
    study: optuna.Study, storage: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEWAL_SECONDS", 0.02)
    renewed = lambda trial: stored(study, trial).user_attrs["renewed"]  # noqa: E731
    with Lease(storage) as lease:
        lease.hold(trial := asked(study))
        lease.seconds = 0.0
        lease.hold(hung := asked(study))
        first, first_of_hung = renewed(trial), renewed(hung)
        time.sleep(0.5)
        assert renewed(trial) > first
        assert renewed(hung) == first_of_hung
        lease.check(trial)
        study.tell(trial.number, state=TrialState.FAIL)  # as another process does that takes it up
        time.sleep(0.5)
        with pytest.raises(LeaseLostError):
            lease.check(trial)


def test_what_is_lost_is_queued_again_once_and_its_deaths_are_counted(study: optuna.Study, storage: Journal) -> None:
    lease = Lease(storage)
    killed = asked(study, owner=ELSEWHERE, renewed=0.0, retries=1)
    stopped = asked(study, owner=ELSEWHERE, renewed=time.time(), stopped=True)
    unmarked = asked(study)
    requeue_lost(study, lease)
    requeue_lost(study, lease)
    waiting = study.get_trials(states=(TrialState.WAITING,))
    retries = {trial.user_attrs["retry_of"]: trial.user_attrs["retries"] for trial in waiting}
    assert len(waiting) == 3
    assert retries == {killed.number: 2, stopped.number: 0, unmarked.number: 0}
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_the_later_of_two_equal_settings_waits_while_the_earlier_one_lives(
    study: optuna.Study, storage: Journal
) -> None:
    lease, now = Lease(storage), time.time()
    first = asked(study, owner=ELSEWHERE, renewed=now, setting_hash="a")
    other = asked(study, owner=ELSEWHERE, renewed=now, setting_hash="b")
    second = asked(study, owner=ELSEWHERE, renewed=now, setting_hash="a")

    def waits(trial: Trial) -> bool:
        return waits_for_another(study.get_trials(), trial, lease)

    assert [waits(trial) for trial in (first, other, second)] == [False, False, True]
    assert may_meet_another(study.get_trials(), second)
    first.set_user_attr("renewed", now - 130)
    assert not waits(second)
    assert may_meet_another(study.get_trials(), second)  # it may come back, and write into its run folder
    study.tell(first.number, 1.0)
    assert not waits(second)
    assert not may_meet_another(study.get_trials(), second)


def test_trials_of_one_setting_at_two_seeds_do_not_wait_for_each_other(study: optuna.Study, storage: Journal) -> None:
    """Where each seed tunes, a trial is one setting at one seed."""
    lease, trials = Lease(storage), []
    for seed in (0, 1, 0):
        study.enqueue_trial({"seed": seed}, {"queued": {"seed": seed}, "retries": 0})
        trial = study.ask()
        trial.suggest_int("seed", 0, 2**32 - 1)
        trial.set_user_attr("owner", ELSEWHERE)
        trial.set_user_attr("renewed", time.time())
        trial.set_user_attr("setting_hash", "a")
        trials.append(trial)
    assert [waits_for_another(study.get_trials(), trial, lease) for trial in trials] == [False, False, True]
    assert [may_meet_another(study.get_trials(), trial) for trial in trials] == [True, False, True]


def test_a_lost_trial_is_queued_again_at_its_seed(study: optuna.Study, storage: Journal) -> None:
    study.enqueue_trial({"seed": 7}, {"queued": {"seed": 7}})
    lost = study.ask()
    lost.set_user_attr("owner", ELSEWHERE)
    lost.set_user_attr("renewed", 0.0)
    requeue_lost(study, Lease(storage))
    again = study.ask()
    assert again.user_attrs["retry_of"] == lost.number
    assert again.user_attrs["queued"] == {"seed": 7}
    assert again.suggest_int("seed", 0, 2**32 - 1) == 7
