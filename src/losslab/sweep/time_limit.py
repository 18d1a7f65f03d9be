"""The seconds that a trial may take."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class TimeLimitError(RuntimeError):
    """A trial took longer than its study allows."""


class TimeLimit(Callback):
    """Raises TimeLimitError behind the first batch after the deadline.

    Args:
        seconds: allowed for each trial from now on, for all trainings that have this callback; None is no limit.
        trials: how many are trained together.
    """

    def __init__(self, seconds: float | None, trials: int = 1) -> None:
        self._seconds = float("inf") if seconds is None else seconds * trials
        self._deadline = time.monotonic() + self._seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() > self._deadline:
            raise TimeLimitError(f"it took longer than the {self._seconds:g} seconds that time_limit allows")
