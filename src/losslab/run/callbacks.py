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
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from losslab.errors import UserError
from losslab.models import Classifier, ends_training
from losslab.run.config import Config, differences
from losslab.run.folder import RunFolder, csv_text, write_predictions, write_whole

FIRST_COLUMNS = ("epoch", "step", "train/loss", "train/acc_running", "train/acc")
"""Columns of metrics.csv from the first row on, so that no row is rewritten when `train/acc` comes, at the end."""

Weights = dict[str, Tensor]
"""A copy of a module's state_dict."""


def copy_weights(trainer: Trainer) -> Weights:
    """Return a copy of the weights and buffers that a checkpoint would hold now."""
    return {name: tensor.detach().clone() for name, tensor in trainer.strategy.lightning_module_state_dict().items()}


def same_weights(ours: Weights, theirs: Weights) -> bool:
    """Return whether two copies are equal, on whatever devices they are."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours)


class Records(Checkpoint):
    """Writes a row of metrics.csv after each epoch, and the predictions at the end; checkpoints the random state.

    Lightning calls a Checkpoint last, after the model's own end of epoch, and several in the order given: the row is on
    disk before the checkpoint that ends the epoch. After a kill between the two, the epoch is trained again and its row
    replaced, so that metrics.csv has each epoch once.

    A row holds numbers of the weights at the epoch's end: without a validation there, its `val/` columns are empty.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.measured: Weights = {}
        """The weights that the last `train/acc` belongs to."""
        self.train_accuracy: float | None = None
        """`train/acc` of the weights that a validation after the fit reads; see `on_validation_batch_start`."""
        self._random_state: dict[str, Any] | None = None
        self._validated_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = [row for row in self.folder.epochs() if int(row["epoch"]) < trainer.current_epoch]
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random_state["cuda"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # StochasticWeightAveraging ends with an epoch without backward, at the end of which the optimiser steps.
        pl_module.zero_grad()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Callbacks that average have their averages in the network only now.
        after_the_fit = trainer.state.fn == TrainerFn.VALIDATING and batch_idx == 0
        if after_the_fit and isinstance(pl_module, Classifier) and pl_module.evaluate_train != "never":
            self.train_accuracy = float(pl_module.train_accuracy())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning keeps a metric until it is logged again, in whichever epoch.
        stale = [] if self._validated_step == trainer.global_step else ["val"]
        if isinstance(pl_module, Classifier):
            if pl_module.train_accuracy_step == trainer.global_step:
                self.measured = copy_weights(trainer)
            else:
                stale.append("train/acc")
        if trainer.is_global_zero:
            self.rows.append(epoch_row(trainer, without(trainer.callback_metrics, *stale)))
            write_epochs(self.folder.metrics_file, self.rows)

    def complete(self, metrics: Mapping[str, Any]) -> None:
        """Replace these metrics in the last row of metrics.csv."""
        self.rows = [dict(row) for row in self.folder.epochs()]
        if self.rows:
            self.rows[-1] |= {key: f"{float(value):.8g}" for key, value in metrics.items()}
            write_epochs(self.folder.metrics_file, self.rows)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, Classifier) and pl_module.evaluated is not None:
            write_predictions(self.folder.predictions_file, pl_module.evaluated)

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}  # [] without CUDA

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict


def without(metrics: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return metrics without those of these keys or splits, such as "train/acc" or "val"."""
    left_out = tuple(f"{name}/" for name in names)
    return {key: value for key, value in metrics.items() if not f"{key}/".startswith(left_out)}


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
        whole = apply_to_collection({**checkpoint, "config": self.config}, Tensor, _with_own_storage)
        if versions := getattr(checkpoint["state_dict"], "_metadata", None):  # of the modules' code, for torch
            whole["state_dict"]._metadata = versions
        torch.save(whole, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def _with_own_storage(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor that is part of a larger storage, which torch.save would write whole."""
    is_part = tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone() if is_part else tensor


class EpochCheckpoints(Checkpoint):
    """Saves last.ckpt after every epoch, and best.ckpt after each validation with the highest macro F1 so far.

    The last epoch's last.ckpt is saved when the training has ended: StochasticWeightAveraging replaces weights then.
    best.ckpt holds the weights that were validated, whatever a callback replaces them with before or after.

    Lightning's ModelCheckpoint does not update last.ckpt after an epoch that is not the best, and loses the best score
    when the run's folder is moved.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.best = -math.inf
        self.validated: Weights = {}
        """The weights of the last validation."""
        self.saved: Weights = {}
        """The weights in last.ckpt at the end of the training."""
        self._last_epochs_best: tuple[float, Weights] = -math.inf, {}
        self._saved_instead: Weights = {}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and not trainer.sanity_checking:
            self.validated = copy_weights(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = float(trainer.callback_metrics.get("val/f1/macro", -math.inf))
        if trainer.sanity_checking or not score > max(self.best, self._last_epochs_best[0]):
            return
        if trainer.state.fn == TrainerFn.FITTING and ends_training(trainer):
            self._last_epochs_best = score, self.validated
        else:
            self.best = score
            self.save(trainer, "best", self.validated)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ends_training(trainer):
            trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Weights that have been replaced since their validation are validated again, after the fit.
        self.saved = copy_weights(trainer)
        score, weights = self._last_epochs_best
        if weights and same_weights(self.validated, self.saved):
            self.best = score
            self.save(trainer, "best", weights)
        self._last_epochs_best = -math.inf, {}
        trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")

    def save(self, trainer: Trainer, which: str, weights: Weights) -> None:
        """Save the "best" or "last" checkpoint, with other weights than the network has now."""
        self._saved_instead = weights
        trainer.save_checkpoint(self.folder.checkpoints / f"{which}.ckpt")
        self._saved_instead = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"].update(self._saved_instead)

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
        what = f"truncated or damaged ({type(error).__name__})"
        raise UserError(f"{path} is {what}: use another checkpoint, or fit again.") from None
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
            warnings.filterwarnings("ignore", "You're using the WeightAveraging callback, but loading")
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

    With a callback that acts at the start of an epoch, such as StochasticWeightAveraging, last.ckpt stays that of the
    epoch before: Lightning does not call it when it continues within an epoch.

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
        ends_epoch = trainer.is_last_batch or 0 <= trainer.max_steps <= trainer.global_step
        if self.received is not None and not ends_epoch:
            if self.folder is not None and not _acts_at_epoch_start(trainer):
                trainer.save_checkpoint(self.folder.checkpoints / "last.ckpt")
            raise Interrupted(self.received)


def _acts_at_epoch_start(trainer: Trainer) -> bool:
    return any(
        type(callback).on_train_epoch_start is not Callback.on_train_epoch_start
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not isinstance(callback, ProgressBar | Records)
    )


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
