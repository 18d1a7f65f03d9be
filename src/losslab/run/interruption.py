"""Ctrl-C and SIGTERM: finish the batch, save, and go."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from losslab.run.run_folder import RunFolder


class Interrupted(BaseException):
    """The fit was stopped from outside; what it had done is saved. Not an Exception: nothing should recover from it.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption(Callback):
    """On the first SIGINT or SIGTERM, ends the batch, writes last.ckpt at that batch, and raises Interrupted.

    A second Ctrl-C stops at once. Use it as a context around the fit: it holds the signals' handlers.

    Args:
        folder: the run's; None writes no checkpoint.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self.folder = folder
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._register()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By now Lightning has a handler before ours, which calls the other processes in the midst of what they do.
        self._register()

    def _register(self) -> None:
        for number in self._former:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.received = self.received or number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:  # all processes stop at the same batch, whichever of them was told
            told = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
            self.received = int(trainer.strategy.reduce(told, reduce_op="max")) or None
        # Behind an epoch's last batch Lightning would go on with the next epoch, and leave out this one's validation.
        if self.received is not None and not trainer.is_last_batch:
            if self.folder is not None:
                trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")
            raise Interrupted(self.received)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """A context in which SIGINT and SIGTERM raise Interrupted, also where outside of it they are only noted."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        former = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    try:
        for number in former:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
