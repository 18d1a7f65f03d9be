"""A callback that kills or stops its process at a given moment: once, if the current folder has a file `armed`.

Without that file the same command is the undisturbed run or, after a kill, the run that continues.
"""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def _fire(number: int = signal.SIGKILL) -> None:
    if Path("armed").exists():
        Path("armed").unlink()
        os.kill(os.getpid(), number)


class Killer(Callback):
    """Kills its process with SIGKILL, or stops it with SIGTERM.

    Args:
        step: kill after this optimiser step, before its batch counts as done.
        validation: kill in the middle of this epoch's validation.
        stop: send SIGTERM after this optimiser step; of several processes, to the last one only.
        write: kill in the middle of this write to the run's folder, counted from the call of `setup`.
    """

    def __init__(self, step: int = -1, validation: int = -1, stop: int = -1, write: int = -1) -> None:
        self.step, self.validation, self.stop, self.write = step, validation, stop, write

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.write < 0 or not Path("armed").exists():
            return
        synchronise, written = os.fsync, []

        def fsync(descriptor: int) -> None:
            written.append(descriptor)
            if len(written) == self.write:
                os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
                name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
                Path("killed_while_writing").write_text(name)
                _fire()
            synchronise(descriptor)

        os.fsync = fsync

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            _fire()
        if trainer.global_step == self.stop and trainer.global_rank == trainer.world_size - 1:
            _fire(signal.SIGTERM)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == self.validation:
            _fire()
