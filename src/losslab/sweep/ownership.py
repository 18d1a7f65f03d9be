"""Which process runs a trial, and whether that process is alive."""

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
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.sweep.storage import Journal, PatientStorage

LEASE_SECONDS = 120.0
"""A trial that was not renewed for this long is requeued. The machines' clocks must agree to a fraction of it."""

RENEWAL_SECONDS = 20.0
"""Seconds between two renewals."""


def this_process() -> dict[str, Any]:
    """Return the mark that this process sets on the trials that it runs."""
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "boot": _boot_id(), "started": started}


def is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the process that set this mark is gone; one on another host counts as alive."""
    if owner is None:  # ask and mark happen under one lock; no mark means that the process died in between
        return True
    if owner["host"] != socket.gethostname():
        return False
    if owner["boot"] != _boot_id() or not psutil.pid_exists(owner["pid"]):
        return True
    try:
        process = psutil.Process(owner["pid"])
        # A corrected clock shifts the start time a little.
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner["started"]) > 5
    except psutil.NoSuchProcess:
        return True


@functools.cache
def _boot_id() -> str:
    """Return an id that changes when the machine restarts, after which its process numbers mean nothing."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else f"{psutil.boot_time():.0f}"


class LeaseLostError(Exception):
    """The trial was requeued for another process, since this one, stopped or hung, had not renewed its lease."""


class Lease:
    """Renews the leases of the trials that this process holds, from a thread. Use it as a context around their run.

    A trial that is still held when the context ends was stopped; it is given back.

    Args:
        storage: the study's storage.
    """

    seconds = float("inf")
    """How long a trial is renewed, so that a hung one is requeued."""

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
        # The thread may be waiting for a database and renew a trial once more after it is given back: harmless.
        self._thread.join(5.0)
        for number, trial in self._held.items():
            if number not in self._lost and not self._storage.is_away:
                # The error that ends the run is raised; the lease runs out by itself.
                with contextlib.suppress(Exception):
                    trial.set_user_attr("stopped", True)
        self._held.clear()

    def hold(self, trial: Trial) -> None:
        """Mark a trial as this process's, and renew its lease from now on."""
        trial.set_user_attr("renewed", time.time())
        trial.set_user_attr("owner", this_process())
        self.extend(trial)
        self._held[trial.number] = trial

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether the process of a running trial gave it back, is gone, or did not renew its lease."""
        attributes = trial.user_attrs
        owner = attributes.get("owner")
        if "stopped" in attributes or is_dead(owner) or (owner == this_process() and trial.number not in self._held):
            return True
        # While the storage was away, no process could renew.
        renewed = max(attributes.get("renewed", 0.0), self._storage.answers_since)
        return time.time() - renewed > LEASE_SECONDS

    def extend(self, trial: Trial) -> None:
        """Restart the time after which a trial counts as hung."""
        self._until[trial.number] = time.monotonic() + self.seconds

    def release(self, trial: Trial) -> None:
        """Stop renewing a trial: Optuna has its result."""
        self._held.pop(trial.number, None)

    def check(self, trial: Trial) -> None:
        """Raise LeaseLostError if the trial was requeued for another process."""
        if trial.number in self._lost:
            raise LeaseLostError(f"trial {trial.number}")

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL_SECONDS):
            for number, trial in list(self._held.items()):
                if time.monotonic() > self._until[number]:
                    continue
                try:
                    trial.set_user_attr("renewed", time.time())
                except UpdateFinishedTrialError:  # another process took it over, or we have just finished it
                    if number in self._held:
                        self._lost.add(number)
                except Exception:  # a full disk, a database that does not answer: the next renewal tries again
                    continue


def requeue_lost(study: optuna.Study, lease: Lease) -> None:
    """Queue again the trials that were stopped, or whose process is gone; results of finished seeds are kept.

    A trial is queued first and marked as failed afterwards. If this process dies in between, the next one sees by
    `retry_of` that the trial is queued already. Call it under the study's lock.
    """
    lost = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if lease.is_lost(trial)]
    retried = {trial.user_attrs.get("retry_of") for trial in (study.get_trials(deepcopy=False) if lost else [])}
    for trial in lost:
        attributes = trial.user_attrs
        queued = attributes.get("queued") or trial.params
        if queued and trial.number not in retried:  # without parameters the process died before it had a setting
            # A trial that its user stopped, or that had not begun, did not kill its process; another may have.
            suspected = "owner" in attributes and "stopped" not in attributes
            kept = {key: attributes[key] for key in ("setting_hash",) if key in attributes}
            kept |= {"queued": queued, "retries": attributes.get("retries", 0) + suspected}
            study.enqueue_trial(queued, kept | {"retry_of": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def count_spent(trials: list[FrozenTrial]) -> int:
    """Count all trials but those whose process was lost, since their settings are queued again."""
    return sum(trial.state != TrialState.FAIL or "failure" in trial.user_attrs for trial in trials)


def waits_for_another(trials: list[FrozenTrial], trial: Trial, lease: Lease) -> bool:
    """Whether an earlier trial of the same setting (and seed) is in training, whose results this one then waits for.

    A trial waits for earlier ones only, so that no two wait for each other.
    """
    earlier = [t for t in _of_same_setting(trials, trial) if t.number < trial.number and t.state == TrialState.RUNNING]
    return not all(map(lease.is_lost, earlier))


def may_meet_another(trials: list[FrozenTrial], trial: Trial) -> bool:
    """Whether a process that lost this setting may still be alive and write into its run folder."""
    return any(
        other.state in (TrialState.RUNNING, TrialState.FAIL)
        and "owner" in other.user_attrs
        and not {"failure", "stopped"} & set(other.user_attrs)
        and not is_dead(other.user_attrs["owner"])
        for other in _of_same_setting(trials, trial)
    )


def _of_same_setting(trials: list[FrozenTrial], trial: Trial) -> list[FrozenTrial]:
    """Return the other trials of the setting; where a trial has one seed, of that seed."""
    setting_hash, seed = trial.user_attrs.get("setting_hash"), trial.params.get("seed")
    same = [other for other in trials if other.user_attrs.get("setting_hash") == setting_hash]
    return [other for other in same if other.number != trial.number and other.params.get("seed") == seed]
