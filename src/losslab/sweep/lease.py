"""A trial is a process's own as long as that process lives and renews its lease; the same for every storage."""

import contextlib
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

from losslab.sweep.owner import is_dead, this_process
from losslab.sweep.storage import Journal, PatientStorage

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
