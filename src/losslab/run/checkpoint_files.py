"""Checkpoints on disk: written whole, with the run's configuration in them, and read without running any code."""

import io
import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from losslab.errors import UserError
from losslab.run.config import Config, differences
from losslab.run.run_folder import RunFolder, write_whole


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
