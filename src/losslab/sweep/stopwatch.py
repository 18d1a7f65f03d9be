"""How long a step of a training takes, from a few of them."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

WARM_UP, MEASURED = 5, 20
"""Steps not counted, and counted."""


class _MeasuredError(Exception):
    """Ends a training that was begun for its speed."""


class Stopwatch(Callback):
    """Measures seconds a step in the first epoch, which has to have two steps or more. Give it to the Trainer."""

    def measure(self, trainer: Trainer, model: LightningModule, data: Any) -> float:
        """Begin to train, give up after the measured steps, and return the mean seconds of one."""
        try:
            trainer.fit(model, datamodule=data)
        except _MeasuredError:
            return self._seconds
        raise AssertionError("the epoch had no second step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = min(WARM_UP + MEASURED, int(trainer.num_training_batches)) - 1
        first = max(min(WARM_UP, last) - 1, 0)
        if batch_idx in (first, last) and pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        if batch_idx == first:
            self._start = time.perf_counter()
        elif batch_idx == last:
            self._seconds = (time.perf_counter() - self._start) / (last - first)
            raise _MeasuredError
