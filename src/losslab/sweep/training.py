"""One setting at one seed: a fit whose last epoch becomes a result, exactly once."""

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer

from losslab.run import (
    CommandLine,
    Config,
    Interrupted,
    RunFolder,
    finish_trackers,
    fit_run,
    git_state,
    study_name,
    tracker_arguments,
)
from losslab.study import Result, Setting, read_result, result_path, write_result


class Training(NamedTuple):
    """What shall become a result.

    Args:
        study_folder: runs/<study>.
        setting: whose result it is.
        setting_hash: its identity.
        seed: likewise.
        order: where the setting stands among the study's, for tables.
        label: the setting's name, for tables and trackers.
        attempt: ends the name of the run's folder, where another process may still write into the usual one.
        job_type: what trackers hear of its purpose.
    """

    study_folder: Path
    setting: Setting
    setting_hash: str
    seed: int
    order: int
    label: str
    attempt: str = ""
    job_type: str = "search"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label} seed={self.seed}"

    @property
    def result_path(self) -> Path:
        """The result's file."""
        return result_path(self.study_folder, self.setting_hash, self.seed)

    @property
    def run_path(self) -> Path:
        """The run's folder."""
        return self.study_folder / "runs" / self.setting_hash / f"seed-{self.seed}{self.attempt}"

    def ended(self, result: Result, monitor: str) -> str:
        """The line that says so."""
        return f"{self.name}: {monitor} {result['metrics'][monitor]:.4f} ({result['seconds']:.0f} s)"

    def tracker_arguments(self) -> Config:
        """What a configured logger is told."""
        return tracker_arguments(self.run_path, study_name(self.study_folder), self.name, self.job_type)

    def remove_remains(self) -> None:
        """Remove what a killed process left of it.

        It is trained anew: a training is a matter of minutes, and a result of one undisturbed process is the same
        wherever it ran.
        """
        self.result_path.unlink(missing_ok=True)  # there is one only if it is not whole
        shutil.rmtree(self.run_path, ignore_errors=True)

    def write_result(self, metrics: dict[str, float]) -> Result:
        """Write the result of the finished run, unless another process has; that one is returned then."""
        manifest = RunFolder(self.run_path).manifest()
        kept = ("data_name", "class_counts", "hashes", "device", "precision", "seconds", "started_at", "population")
        result: Result = {
            "study": study_name(self.study_folder),
            "label": self.label,
            "setting": {"arm": self.setting.arm, "values": self.setting.values},
            "setting_hash": self.setting_hash,
            "order": self.order,
            "seed": self.seed,
            "metrics": metrics,
            "run": str(self.run_path.relative_to(self.study_folder)),
            **{key: manifest[key] for key in kept if key in manifest},
            **git_state(),
        }
        return result if write_result(self.result_path, result) else read_result(self.result_path) or result


class Pruning(Callback):
    """Tells Optuna the monitored metric after each epoch, and stops the training if the pruner says so."""

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self._trial, self._monitor = trial, monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trial.report(float(trainer.callback_metrics[self._monitor]), trainer.current_epoch)
        unfinished = trainer.current_epoch + 1 < (trainer.max_epochs or 0)
        if unfinished and self._trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}")


def train(command_line: CommandLine, training: Training, callbacks: list[Callback]) -> Result:
    """Train the configuration that `command_line` holds, and write its result.

    Args:
        command_line: holds the configuration of the training.
        training: what it is.
        callbacks: added to the Trainer's.
    """
    training.remove_remains()
    fitted = fit_run(command_line, training.run_path, False, callbacks, training.tracker_arguments())
    result = training.write_result(fitted.metrics)
    finish_trackers(fitted.trainer, fitted.summary())
    if fitted.interrupted_by is not None:
        raise Interrupted(fitted.interrupted_by)
    return result


def checkpoint_folders(study_folder: Path) -> list[Path]:
    """The folders with checkpoints, of all trainings."""
    return list(study_folder.glob("runs/*/seed-*/checkpoints"))


def drop_checkpoints(folders: list[Path], kept: set[str]) -> None:
    """Delete these folders, except those of the settings with these hashes."""
    for folder in folders:
        if folder.parts[-3] not in kept:
            shutil.rmtree(folder, ignore_errors=True)


class TimeLimitError(RuntimeError):
    """A trial took longer than its study allows."""


class TimeLimit(Callback):
    """Raises TimeLimitError behind the first batch after the deadline.

    Args:
        seconds: allowed for each trial from now on, for all trainings that have this callback; None is no limit.
        trials: how many are trained together.
    """

    def __init__(self, seconds: float | None, trials: int = 1) -> None:
        self._seconds = float("inf") if seconds is None else seconds * trials
        self._deadline = time.monotonic() + self._seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() > self._deadline:
            raise TimeLimitError(f"it took longer than the {self._seconds:g} seconds that time_limit allows")
