"""W&B, TensorBoard and the like: chosen in the configuration, completed here, closed when a run is over."""

import functools
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from losslab.data import ImageDataModule
from losslab.run.guarded_logger import GuardedLogger
from losslab.run.run_folder import RunFolder
from losslab.run.wandb_summary import log_summary


def tracker_arguments(folder: Path, group: str, name: str, job_type: str) -> dict[str, Any]:
    """What a configured logger is told if its own configuration does not say: where, and what this run is called.

    Every run is a W&B run of its own, also within one process. Without a key W&B works offline, without a question;
    `wandb sync` uploads later.
    """
    arguments: dict[str, Any] = {
        "save_dir": str(folder.absolute()),  # W&B's own process keeps the folder that it was started in
        "name": name,
        "group": group,
        "job_type": job_type,
        "project": "losslab",
        "reinit": "create_new",
    }
    if not wandb_has_key():
        arguments["offline"] = True
    return arguments


def wandb_has_key() -> bool:
    """Whether W&B can be reached without a question: by WANDB_API_KEY, or a login that it remembers."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.is_file() and "wandb" in file.read_text(errors="ignore")


def finish_trackers(trainer: Trainer, folder: RunFolder | None = None, data: ImageDataModule | None = None) -> None:
    """Close what stays open after a fit: Lightning leaves W&B's run to the process's end.

    Args:
        trainer: whose loggers are meant.
        folder: of the run if it is finished: then W&B first gets its summary.
        data: what it was validated on, for images in the summary.
    """
    for logger in trainer.loggers:
        if isinstance(logger, GuardedLogger) and isinstance(logger.guarded, WandbLogger):
            logger.call(functools.partial(_finish, logger.guarded, folder, data))


def _finish(logger: WandbLogger, folder: RunFolder | None, data: ImageDataModule | None) -> None:
    if folder is not None:
        log_summary(logger.experiment, folder, data.split("val").images.cpu() if data is not None else None)
    logger.experiment.finish()
