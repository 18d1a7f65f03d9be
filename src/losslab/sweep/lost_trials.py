"""Trials whose process is gone are queued again; and which trials of the same setting have to wait for each other."""

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.sweep.lease import Lease
from losslab.sweep.owner import is_dead


def take_up_lost(study: optuna.Study, lease: Lease) -> None:
    """Queue again what was stopped, or belongs to a process that is gone. Its finished seeds have their results.

    First queued, then told as failed: a process that dies in between leaves it to the next one, which sees by
    `retry_of` what is queued already. Call it under the study's lock.
    """
    retried = {trial.user_attrs.get("retry_of") for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        attributes = trial.user_attrs
        if lease.is_lost(trial):
            queued = attributes.get("queued") or trial.params
            if queued and trial.number not in retried:  # without parameters it died before it had a setting
                # Stopped by its user, or not begun yet, it is not to blame; else it may be killed again.
                blamed = "owner" in attributes and "stopped" not in attributes
                kept = {"queued": queued, "retries": attributes.get("retries", 0) + blamed, "retry_of": trial.number}
                if "setting_hash" in attributes:
                    kept["setting_hash"] = attributes["setting_hash"]
                study.enqueue_trial(queued, kept)
            study.tell(trial.number, state=TrialState.FAIL)


def spent(trials: list[FrozenTrial]) -> int:
    """Trials that count: all but those whose process was lost, since their settings are queued again."""
    return sum(trial.state != TrialState.FAIL or "failure" in trial.user_attrs for trial in trials)


def waits_for_another(trials: list[FrozenTrial], trial: Trial, lease: Lease) -> bool:
    """Whether an earlier trial of the same setting is in training: this one then waits, and finds the results.

    A trial waits for earlier ones only, so that no two wait for each other.
    """
    setting_hash = trial.user_attrs.get("setting_hash")
    return any(
        other.number < trial.number
        and other.state == TrialState.RUNNING
        and other.user_attrs.get("setting_hash") == setting_hash
        and not lease.is_lost(other)
        for other in trials
    )


def may_meet_another(trials: list[FrozenTrial], trial: Trial) -> bool:
    """Whether a process that had this setting before, and lost it, may still live and write into its run folder."""
    return any(
        other.number != trial.number
        and other.state in (TrialState.RUNNING, TrialState.FAIL)
        and other.user_attrs.get("setting_hash") == trial.user_attrs.get("setting_hash")
        and "owner" in other.user_attrs
        and not {"failure", "stopped"} & set(other.user_attrs)
        and not is_dead(other.user_attrs["owner"])
        for other in trials
    )
