"""W&B, TensorBoard and the like: chosen in the configuration, completed here, closed when a run is over."""

import functools
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from losslab.run.guarded_logger import GuardedLogger
from losslab.run.wandb_summary import Summary, log_summary


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


def finish_trackers(trainer: Trainer, summary: Summary | None = None) -> None:
    """Close what stays open after a fit or a test: Lightning leaves W&B's run to the process's end.

    Args:
        trainer: whose loggers are meant.
        summary: what W&B gets first, if the run is finished.
    """
    for logger in trainer.loggers:
        if isinstance(logger, GuardedLogger) and isinstance(logger.guarded, WandbLogger):
            logger.call(functools.partial(_finish, logger.guarded, summary))


def _finish(logger: WandbLogger, summary: Summary | None) -> None:
    if summary is not None:
        log_summary(logger.experiment, summary)
    logger.experiment.finish()
