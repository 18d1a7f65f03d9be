"""Callbacks of a fit: metrics.csv and predictions, checkpoints, and Ctrl-C."""

import io
import math
import pickle
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from losslab.errors import UserError
from losslab.models import Classifier
from losslab.run.config import Config, differences
from losslab.run.folder import RunFolder, csv_text, write_predictions, write_whole

FIRST_COLUMNS = ("epoch", "step", "train/loss", "train/acc_running", "train/acc")
"""Columns of metrics.csv from the first row on, so that no row is rewritten when `train/acc` comes, at the end."""


class Records(Checkpoint):
    """Writes a row of metrics.csv after each epoch, and the predictions at the end; checkpoints the random state.

    Lightning calls a Checkpoint last, after the model's own end of epoch, and several in the order given: the row is on
    disk before the checkpoint that ends the epoch. After a kill between the two, the epoch is trained again and its row
    replaced, so that metrics.csv has each epoch once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._random_state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = [row for row in self.folder.epochs() if int(row["epoch"]) < trainer.current_epoch]
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random_state["cuda"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.rows.append(epoch_row(trainer, trainer.callback_metrics))
        write_epochs(self.folder.metrics_file, self.rows)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, Classifier) and pl_module.evaluated is not None:
            write_predictions(self.folder.predictions_file, pl_module.evaluated)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}  # [] without CUDA

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict


def epoch_row(trainer: Trainer, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of metrics.csv for the epoch that ends."""
    values = {key: f"{float(value):.8g}" for key, value in metrics.items()}
    return {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}


def write_epochs(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace metrics.csv atomically."""
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)]))
    write_whole(path, csv_text([columns, *([row.get(column, "") for column in columns] for row in rows)]))


class CheckpointFiles(TorchCheckpointIO):
    """Writes the Trainer's checkpoints atomically, with the run's configuration, and reads them safely.

    Lightning writes to the system's temporary folder and moves the file; onto another file system, that move is a copy,
    which a kill leaves incomplete.

    Args:
        config: the run's whole configuration, saved in every checkpoint.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save({**checkpoint, "config": self.config}, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class EpochCheckpoints(Checkpoint):
    """Saves last.ckpt after every epoch, and best.ckpt after each epoch with the highest validation macro F1 so far.

    Lightning's ModelCheckpoint does not update last.ckpt after an epoch that is not the best, and loses the best score
    when the run's folder is moved.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.best = -math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics["val/f1/macro"])
        if score > self.best:
            self.best = score
            trainer.save_checkpoint(self.folder.checkpoints / "best.ckpt")
        trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint, its tensors on CPU. Only plain values are read; no code in the file is executed.

    Raises:
        UserError: the file is truncated, holds other objects, or was not written by losslab.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about an unusual pickle, which is rejected below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no checkpoint of plain values: it is damaged, or holds objects that execute code when read. "
            "No code was executed. Use another checkpoint, or fit again."
        ) from None
    except Exception as error:  # damaged bytes raise exceptions of any type
        raise UserError(
            f"{path} is truncated or damaged ({type(error).__name__}): use another checkpoint, or fit again."
        ) from None
    match checkpoint:
        case {"state_dict": dict(), "config": dict()}:
            return checkpoint
    raise UserError(f"{path} is no checkpoint of a losslab run: use one from the run's folder.")


def require_same_config(path: Path, config: Config) -> None:
    """Raise UserError unless the checkpoint has this configuration, apart from the Trainer's arguments."""
    if changed := differences(read_checkpoint(path)["config"], config, with_trainer=False):
        raise UserError(f"{path} was written under another configuration: {'; '.join(changed)}.")


@contextmanager
def loading(path: Path | None) -> Iterator[None]:
    """A context for loading a checkpoint: raises UserError if the weights do not fit a network whose code changed."""
    try:
        with warnings.catch_warnings():
            # The checkpoint also holds the state of the fit's callbacks, which only a fit needs.
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
            yield
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        first = str(error).splitlines()[1].strip()
        raise UserError(f"the weights in {path} do not fit the network: {first} Fit again.") from None


class Interrupted(BaseException):
    """The fit was stopped by a signal; its work so far is saved. No Exception, so that no handler swallows it.

    Args:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption(Callback):
    """On the first SIGINT or SIGTERM, finishes the batch, writes last.ckpt at that batch, and raises Interrupted.

    A second Ctrl-C stops at once. Used as a context around the fit, in which it handles the signals.

    Args:
        folder: the run's folder; None writes no checkpoint.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self.folder = folder
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._former = _signal_handlers()
        _set_signal_handlers(dict.fromkeys(self._former, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        _set_signal_handlers(self._former)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has installed its own handlers since; theirs would call a collective in the middle of a step.
        _set_signal_handlers(dict.fromkeys(self._former, self._note))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.received = self.received or number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:  # all processes stop at the same batch, whichever of them got the signal
            number = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
            self.received = int(trainer.strategy.reduce(number, reduce_op="max")) or None
        # After an epoch's last batch we wait: resuming there would skip this epoch's validation.
        if self.received is not None and not trainer.is_last_batch:
            if self.folder is not None:
                trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")
            raise Interrupted(self.received)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """A context in which SIGINT and SIGTERM raise Interrupted, also inside of an Interruption; ignored ones stay so."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    former = {number: handler for number, handler in _signal_handlers().items() if handler != signal.SIG_IGN}
    try:
        _set_signal_handlers(dict.fromkeys(former, stop))
        yield
    finally:
        _set_signal_handlers(former)


def _signal_handlers() -> dict[int, Any]:
    """Return the handlers of SIGINT and SIGTERM; {} outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _set_signal_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
