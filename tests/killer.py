"""A callback that kills or stops its process at a given moment: once, if a file `armed` lies in the current folder.

The same command without that file is the undisturbed run, and after the kill it is the one that goes on.
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
    """Kills with SIGKILL, or stops.

    Args:
        step: behind this optimiser step, before its batch counts as done.
        validation: in the middle of this epoch's validation.
        stop: behind this optimiser step, but with SIGTERM, and of several processes the last one only.
        write: in the middle of this write to the run's folder, counted from the Trainer's first call.
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
