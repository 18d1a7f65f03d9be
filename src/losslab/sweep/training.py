"""One setting at one seed: a fit whose last epoch becomes a result, exactly once; callbacks that may end it."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from losslab.errors import TrainingError
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
    """One training of a study.

    Args:
        study_folder: runs/<study>.
        setting: the setting to train.
        setting_hash: its identity; see `losslab.sweep.study.Study.configure`.
        seed: the seed.
        order: the setting's place in tables.
        label: the setting's name in tables and trackers.
        attempt: suffix of the run's folder, used if another process may still write into the usual one.
        job_type: the run's purpose, for trackers: "search" or "confirm".
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
        """The training's name in messages and trackers."""
        return f"{self.label} seed={self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """The setting's hash and the seed."""
        return self.setting_hash, self.seed

    @property
    def result_path(self) -> Path:
        """The file of its result."""
        return result_path(self.study_folder, self.setting_hash, self.seed)

    @property
    def run_path(self) -> Path:
        """The folder of its run."""
        return self.study_folder / "runs" / self.setting_hash / f"seed-{self.seed}{self.attempt}"

    def result_line(self, result: Result, monitor: str) -> str:
        """Return the progress line for a finished training."""
        return f"{self.name}: {monitor} {result['metrics'][monitor]:.4f} ({result['seconds']:.0f} s)"

    def tracker_arguments(self) -> Config:
        """Return constructor arguments for the configured loggers: names, folders, purpose."""
        return tracker_arguments(self.run_path, study_name(self.study_folder), self.name, self.job_type)

    def remove_remains(self) -> None:
        """Remove the files of a killed process.

        The training starts from the beginning: it takes minutes, and its result is that of an undisturbed process.
        """
        self.result_path.unlink(missing_ok=True)  # an existing file is incomplete
        shutil.rmtree(self.run_path, ignore_errors=True)

    def write_result(self, metrics: dict[str, float]) -> Result:
        """Write and return the finished run's result; if another process was first, return the result that it wrote."""
        manifest = RunFolder(self.run_path).manifest()
        kept = (
            "data_name", "class_counts", "hashes", "code", "conditions", "device", "precision", "float32", "seconds",
            "started_at", "population",
        )  # fmt: skip
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


def report_epoch(trial: optuna.Trial, trainer: Trainer, value: float) -> optuna.TrialPruned | None:
    """Report the monitored metric after an epoch to Optuna; return the error that ends a pruned trial, else None."""
    trial.report(value, trainer.current_epoch)
    unfinished = trainer.current_epoch + 1 < (trainer.max_epochs or 0)
    if unfinished and trial.should_prune():
        return optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}")
    return None


class Pruning(Callback):
    """Reports the monitored metric to Optuna after each epoch, and raises TrialPruned if the pruner decides so."""

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self._trial, self._monitor = trial, monitor
        self._reported = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch <= self._reported or trainer.state.fn != TrainerFn.FITTING:
            return  # a second validation in an epoch, or the one after the fit
        self._reported = trainer.current_epoch
        if pruned := report_epoch(self._trial, trainer, float(trainer.callback_metrics[self._monitor])):
            raise pruned


def train(command_line: CommandLine, training: Training, callbacks: list[Callback]) -> Result:
    """Train the configuration that `command_line` holds, and write its result.

    Args:
        command_line: holds the training's configuration.
        training: the training.
        callbacks: added to the Trainer's.

    Raises:
        TrainingError: the training was cut short, so that it is no result.
    """
    training.remove_remains()
    fitted = fit_run(command_line, training.run_path, False, callbacks, training.tracker_arguments())
    result = training.write_result(fitted.metrics) if fitted.partial is None else None
    finish_trackers(fitted.trainer, fitted.summary() if result else None)
    if fitted.interrupted_by is not None:
        raise Interrupted(fitted.interrupted_by)
    if result is None:
        raise TrainingError(f"the training is partial ({fitted.partial}): it ended before its epochs or steps")
    return result


def checkpoint_folders(study_folder: Path) -> list[Path]:
    """Return the checkpoint folders of all trainings of a study."""
    return list(study_folder.glob("runs/*/seed-*/checkpoints"))


def drop_checkpoints(folders: Iterable[Path], kept: Callable[[str, str], bool]) -> None:
    """Delete checkpoint folders, except those for which `kept` returns True.

    Args:
        folders: from `checkpoint_folders`.
        kept: called with the hash of the setting and the name of the run's folder, such as "seed-3".
    """
    for folder in folders:
        *_, setting_hash, run, _ = folder.parts
        if not kept(setting_hash, run):
            shutil.rmtree(folder, ignore_errors=True)


def describe_error(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
