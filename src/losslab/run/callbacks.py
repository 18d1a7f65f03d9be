"""What a fit leaves behind while it runs: metrics.csv, the random state, and the validation predictions."""

import contextlib
import csv
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
from losslab.run.folder import RunFolder, write_predictions, write_whole

FIRST_COLUMNS = ("epoch", "step", "train/loss", "train/acc_running", "train/acc")
"""There from the first row on, so that a row once written stays as it is; `train/acc` comes with the last epoch."""


class Records(Checkpoint):
    """Writes one row of metrics.csv an epoch, and keeps the random state in the checkpoint.

    It is a Checkpoint because Lightning calls those last, behind the model's own end of epoch, and in the order given:
    the row is on disk before the checkpoint that says the epoch is over. After a kill between the two, the epoch is
    trained again and its row replaced, so that every epoch stands there once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._random_state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = [row for row in self.folder.epochs() if int(row["epoch"]) < trainer.current_epoch]
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if torch.cuda.is_available() and self._random_state["cuda"]:
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
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict


def epoch_row(trainer: Trainer, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.csv, for the epoch that ends."""
    values = {key: f"{float(value):.8g}" for key, value in metrics.items()}
    return {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}


def write_epochs(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace metrics.csv, at once."""
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)]))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())


class CheckpointFiles(TorchCheckpointIO):
    """How the Trainer writes and reads checkpoints.

    Lightning's own writing goes by the system's temporary folder; where that is another file system, what it moves into
    place is a copy that a kill leaves half done.

    Args:
        config: the run's whole configuration, which every checkpoint keeps.
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
    """Saves last.ckpt after every epoch, and best.ckpt where the macro F1 of the validation split is the highest yet.

    Lightning's ModelCheckpoint leaves last.ckpt as it was after every epoch that is not the best, and forgets the best
    score when the run's folder has been moved.
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
    """A checkpoint, with its tensors on CPU. Only plain values are read; nothing in the file is executed.

    Raises:
        UserError: it is truncated, holds anything else, or comes from elsewhere.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of an unusual pickle, which is refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no checkpoint of plain values: it is damaged, or holds objects whose reading would run code. "
            "Nothing of it was executed. Take another checkpoint, or fit anew."
        ) from None
    except Exception as error:  # damaged bytes end in any exception
        raise UserError(
            f"{path} is truncated or damaged ({type(error).__name__}): take another checkpoint, or fit anew."
        ) from None
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(part), dict) for part in ("state_dict", "config")
    ):
        raise UserError(f"{path} is no checkpoint of a losslab run: take one from the run's own folder.")
    return checkpoint


def require_same_config(path: Path, config: Config) -> None:
    """Raise UserError unless the checkpoint was written under this configuration, but for the Trainer's arguments."""
    changed = [line for line in differences(read_checkpoint(path)["config"], config) if not line.startswith("trainer.")]
    if changed:
        raise UserError(f"{path} was written under another configuration: {'; '.join(changed)}.")


@contextmanager
def loading(path: Path | None) -> Iterator[None]:
    """Around what loads a checkpoint into a network: one line if its code has changed and the weights do not fit."""
    try:
        with warnings.catch_warnings():
            # The checkpoint also knows the callbacks of the fit, which only a fit needs.
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
            yield
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        first = str(error).splitlines()[1].strip()
        raise UserError(f"the weights in {path} do not fit the network: {first} Fit anew.") from None


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
