"""Who runs a trial, and whether that process still lives."""

import contextlib
import functools
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.sweep.storage import Journal, PatientStorage


@functools.cache
def _boot_id() -> str:
    """Changes when the machine is started again, after which its process numbers mean nothing."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else f"{psutil.boot_time():.0f}"


def this_process() -> dict[str, Any]:
    """The mark that this process leaves on the trials that it runs."""
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "boot": _boot_id(), "started": started}


def is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the process that left this mark is gone. One on another host counts as alive."""
    if owner is None:  # marked in the same locked step in which it is asked: without a mark, that step never ended
        return True
    if owner["host"] != socket.gethostname():
        return False
    if owner["boot"] != _boot_id() or not psutil.pid_exists(owner["pid"]):
        return True
    try:
        process = psutil.Process(owner["pid"])
        return (
            process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner["started"]) > 5
        )  # a corrected clock shifts it
    except psutil.NoSuchProcess:
        return True


LEASE_SECONDS = 120.0
"""A trial that was not renewed for so long is given away. The clocks of the machines must agree to a part of it."""

RENEWAL_SECONDS = 20.0


class LeaseLostError(Exception):
    """The trial was given to another process, because this one had not renewed its lease: it was stopped, or hung."""


class Lease:
    """Renews the leases of the trials that this process runs, from a thread. Use it as a context around their run.

    What is held when the context ends was stopped, and is given back.

    Args:
        storage: the study's.
    """

    seconds = float("inf")
    """A trial is renewed no longer than this, so that a hung one is given away."""

    def __init__(self, storage: Journal | PatientStorage) -> None:
        self._storage = storage
        self._held: dict[int, Trial] = {}
        self._until: dict[int, float] = {}
        self._lost: set[int] = set()
        self._closed = threading.Event()

    def __enter__(self) -> "Lease":
        self._closed.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        # It may be waiting for a database; what is given back below may then be renewed once more, to no harm.
        self._thread.join(5.0)
        for number, trial in self._held.items():
            if number not in self._lost and not self._storage.is_away:
                with contextlib.suppress(Exception):  # whatever ends the run counts, and a lease runs out by itself
                    trial.set_user_attr("stopped", True)
        self._held.clear()

    def take(self, trial: Trial) -> None:
        """Mark a trial as this process's, and hold it."""
        trial.set_user_attr("renewed", time.time())
        trial.set_user_attr("owner", this_process())
        self.extend(trial)
        self._held[trial.number] = trial

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether a running trial's process has given it back, is gone, or has not renewed its lease."""
        attributes = trial.user_attrs
        owner = attributes.get("owner")
        if "stopped" in attributes or is_dead(owner) or (owner == this_process() and trial.number not in self._held):
            return True
        # While the storage was away, nobody could renew.
        renewed = max(attributes.get("renewed", 0.0), self._storage.answers_since)
        return time.time() - renewed > LEASE_SECONDS

    def extend(self, trial: Trial) -> None:
        """Begin the time anew after which a trial counts as hung."""
        self._until[trial.number] = time.monotonic() + self.seconds

    def end(self, trial: Trial) -> None:
        """Hold it no longer: Optuna has been told."""
        self._held.pop(trial.number, None)

    def check(self, trial: Trial) -> None:
        """Raise LeaseLostError if the trial was given away."""
        if trial.number in self._lost:
            raise LeaseLostError(f"trial {trial.number}")

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL_SECONDS):
            for number, trial in list(self._held.items()):
                if time.monotonic() > self._until[number]:
                    continue
                try:
                    trial.set_user_attr("renewed", time.time())
                except UpdateFinishedTrialError:  # told as failed by who took it up; or told by us, this very moment
                    if number in self._held:
                        self._lost.add(number)
                except Exception:  # a full disk, a database that does not answer: tried again the next time
                    continue


class LeaseCheck(Callback):
    """Ends a training behind a batch when its trial was given away: the other process writes the result."""

    def __init__(self, lease: Lease, trials: list[Trial]) -> None:
        self._lease, self._trials = lease, trials

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for trial in self._trials:
            self._lease.check(trial)


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
