"""One setting at one seed: a fit whose last epoch becomes a result, exactly once."""

import shutil
from pathlib import Path

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer

from losslab.report.results import Result, read_result, result_path, write_result
from losslab.run.command_line import CommandLine
from losslab.run.fit import fit
from losslab.run.interruption import Interrupted
from losslab.run.provenance import git_state
from losslab.run.trackers import finish_trackers, tracker_arguments
from losslab.sweep.setting import Setting


class Pruning(Callback):
    """Tells Optuna the monitored metric after each epoch, and stops the training if the pruner says so."""

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self._trial, self._monitor = trial, monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trial.report(float(trainer.callback_metrics[self._monitor]), trainer.current_epoch)
        unfinished = trainer.current_epoch + 1 < (trainer.max_epochs or 0)
        if unfinished and self._trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}")


def train(
    command_line: CommandLine, study_folder: Path, setting: Setting, setting_hash: str, seed: int,
    order: int, label: str, callbacks: list[Callback],
) -> Result:  # fmt: skip
    """Train the configuration that `command_line` holds, and write its result.

    What a killed process left of this training is removed and trained anew: a training is a matter of minutes, and a
    result of one undisturbed process is the same wherever it ran.

    Args:
        command_line: holds the configuration of `setting` at `seed`.
        study_folder: runs/<study>.
        setting: whose result it is.
        setting_hash: its identity.
        seed: likewise.
        order: where the setting stands among the study's, for tables.
        label: the setting's name, for tables and trackers.
        callbacks: added to the Trainer's.
    """
    path = result_path(study_folder, setting_hash, seed)
    path.unlink(missing_ok=True)  # there is one only if it is not whole
    run_path = study_folder / "runs" / setting_hash / f"seed-{seed}"
    shutil.rmtree(run_path, ignore_errors=True)
    trackers = tracker_arguments(run_path, study_folder.name, f"{label} seed={seed}", "search")
    fitted = fit(command_line, run_path, False, callbacks, trackers)
    manifest = fitted.folder.manifest()
    result: Result = {
        "study": study_folder.name,
        "label": label,
        "setting": {"arm": setting.arm, "values": setting.values},
        "setting_hash": setting_hash,
        "order": order,
        "seed": seed,
        "metrics": fitted.metrics,
        "run": str(run_path.relative_to(study_folder)),
        **{key: manifest[key] for key in ("data_name", "hashes", "device", "precision", "seconds", "started_at")},
        **git_state(),
    }
    first = write_result(path, result)
    finish_trackers(fitted.trainer)
    if fitted.interrupted_by is not None:
        raise Interrupted(fitted.interrupted_by)
    return result if first else read_result(path) or result


def drop_checkpoints(study_folder: Path, kept: set[str]) -> None:
    """Delete the checkpoints of every training, except those of the settings with these hashes."""
    for checkpoints in study_folder.glob("runs/*/seed-*/checkpoints"):
        if checkpoints.parts[-3] not in kept:
            shutil.rmtree(checkpoints, ignore_errors=True)
