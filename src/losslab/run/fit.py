"""`losslab fit`: train an experiment in a new run folder, or continue an unfinished run."""

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException

from losslab.data import ImageDataModule
from losslab.errors import TrainingError, UserError
from losslab.run.callbacks import EpochCheckpoints, Interrupted, Interruption, Records, loading, require_same_config
from losslab.run.command_line import CommandLine, Parts, option_value
from losslab.run.config import Config, class_name, differences
from losslab.run.folder import RUNS, RunFolder, find_run, new_run_path, write_predictions
from losslab.run.provenance import new_manifest, require_same_data, utc_now
from losslab.run.terminal import say
from losslab.run.tracking import TrackerSummary, finish_trackers, tracker_arguments

OPTIONS = (
    ("name", "Folder of the runs under runs/; by default the experiment file's name."),
    ("run", "Continue this run: its folder, or runs/NAME for the newest run there."),
    ("ckpt_path", "'last' continues the newest unfinished run of this name where it stopped."),
)


def fit_command(tokens: list[str]) -> None:
    """Train a new run, or continue an unfinished one, and print its folder and headline numbers."""
    run = option_value(tokens, "run")
    folder = find_run(run, finished=False) if run else None
    if folder is not None:
        tokens = ["--config", str(folder.config_file), *tokens]
    command_line = CommandLine(tokens, "losslab fit", OPTIONS, recorded=folder is not None)
    config, options = command_line.resolved(), command_line.config
    experiment = option_value(tokens, "config")
    name = options.name or (Path(experiment).stem if experiment else class_name(config["model"]).lower())
    if options.ckpt_path is not None:
        folder = folder or _run_of_checkpoint(options.ckpt_path, name)
    if folder is not None:
        if changed := differences(folder.config(), config):
            raise UserError(
                f"{folder.path} was started with another configuration ({'; '.join(changed)}). "
                "Continue it without these changes, or start a new run without --run and --ckpt_path."
            )
        if folder.manifest().get("status") == "finished":
            say(f"{folder.path} is finished already.")
            return
        say(f"Continuing {folder.path}")
    path = folder.path if folder else new_run_path(name, config)
    fitted = fit_run(command_line, folder or path, True, trackers=tracker_arguments(path, name, path.name, "fit"))
    finish_trackers(fitted.trainer, fitted.summary())
    metrics, seconds = fitted.metrics, fitted.folder.manifest().get("seconds", 0.0)
    say(
        f"{path}: validation accuracy {metrics['val/acc']:.4f}, macro precision "
        f"{metrics['val/precision/macro']:.4f}, macro recall {metrics['val/recall/macro']:.4f}, {seconds:.0f} s"
    )


def _run_of_checkpoint(checkpoint: str, name: str) -> RunFolder:
    """Return the run of a checkpoint; a fit continues where it stopped, so only from the last.ckpt of a run folder."""
    if checkpoint == "last":
        return find_run(RUNS / name, finished=False)
    path = Path(checkpoint)
    folder = RunFolder(path.parent.parent)
    if path.name != "last.ckpt" or path.parent != folder.checkpoints or not folder.config_file.is_file():
        raise UserError(
            f"ckpt_path must be 'last' or a run folder's checkpoints/last.ckpt for a fit, got {checkpoint!r}."
        )
    folder.checkpoint("last")
    return folder


class Fit(NamedTuple):
    """A finished fit: run folder, metrics after the last epoch, data, and the Trainer, its trackers still open."""

    folder: RunFolder
    metrics: dict[str, float]
    trainer: Trainer
    data: ImageDataModule
    interrupted_by: int | None
    """The number of a signal that came too late to stop this fit; None without one. A caller stops before the next."""

    def summary(self) -> TrackerSummary:
        """Return what `finish_trackers` logs."""
        return TrackerSummary(self.folder, self.folder.predictions_file, self.data, "val")


def fit_run(
    command_line: CommandLine,
    where: RunFolder | Path,
    progress: bool,
    callbacks: Sequence[Callback] = (),
    trackers: Config | None = None,
) -> Fit:
    """Train a parsed experiment.

    Args:
        command_line: holds the configuration.
        where: a path for a new run's folder, or the folder of an unfinished run to continue.
        progress: show the Trainer's progress bar and summary.
        callbacks: added to the Trainer's.
        trackers: arguments for the configured loggers, from `tracker_arguments`. The caller closes the trackers, when
            the result is on disk; after an exception they are closed here.

    Raises:
        UserError: the configuration, the data or the folder are invalid; nothing has been trained or written.
        NonFiniteLossError: the loss became NaN or infinite. The epochs before are on disk.
        Interrupted: a signal stopped the fit. last.ckpt is at the last finished batch.
    """
    config = command_line.resolved()
    if (config["trainer"]["max_epochs"] or 0) < 1:
        raise UserError(f"trainer.max_epochs must be >= 1, got {config['trainer']['max_epochs']}.")
    path = where.path if isinstance(where, RunFolder) else where
    folder = RunFolder(path)
    records, interruption = Records(folder), Interruption(folder)
    visible = progress and config["trainer"]["enable_progress_bar"] is not False
    bar = [RichProgressBar(refresh_rate=10)] if visible else []
    trainer, _, data = built = command_line.build(
        [*callbacks, *bar, interruption, records, EpochCheckpoints(folder)],
        trackers,
        default_root_dir=str(path),
        enable_progress_bar=visible,
        enable_model_summary=visible,
    )
    data.prepare_data()
    data.setup("fit")
    # Only the first of several processes makes the folder and writes into it.
    if trainer.is_global_zero and not isinstance(where, RunFolder):
        RunFolder.create(path, config)
    with folder.held() if trainer.is_global_zero else contextlib.nullcontext(), interruption:
        manifest, last = folder.manifest(), folder.checkpoints / "last.ckpt"
        manifest.pop("failure", None)
        if folder.manifest_file.exists():
            require_same_data(manifest, data, path)
        if last.is_file():
            require_same_config(last, config)
        manifest = new_manifest(config, data) | manifest
        manifest |= {"device": str(trainer.strategy.root_device), "status": "running"}
        if trainer.is_global_zero:
            folder.write_manifest(manifest)
        _fit_recorded(built, folder, manifest, last if last.is_file() else None)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return Fit(folder, metrics, trainer, data, interruption.received)


def _fit_recorded(built: Parts, folder: RunFolder, manifest: dict[str, Any], last: Path | None) -> None:
    """Run the Trainer, and record in the manifest how it ended."""
    trainer, model, data = built
    started, before = time.monotonic(), manifest.get("seconds", 0.0)
    manifest["status"] = "interrupted"  # a signal raises no Exception
    try:
        with loading(last):
            trainer.fit(model, datamodule=data, ckpt_path=last, weights_only=True)
            if "val/loss" not in trainer.callback_metrics:  # the run was stopped after its last epoch
                trainer.validate(model, datamodule=data, ckpt_path=last, weights_only=True, verbose=False)
                if trainer.is_global_zero:
                    write_predictions(folder.predictions_file, model.evaluated)  # type: ignore[arg-type]
        manifest["status"] = "finished"
    except SIGTERMException:  # Lightning's own, at the end of an epoch; its exit status would be 0
        raise Interrupted(signal.SIGTERM) from None
    except Exception as error:
        manifest |= {"status": "failed", "failure": f"{type(error).__name__}: {error}"}
        if out_of_memory := as_out_of_memory(error, trainer, data.batch_size):
            raise out_of_memory from error
        raise
    finally:
        if manifest["status"] != "finished":
            finish_trackers(trainer)
        manifest |= {"ended_at": utc_now(), "seconds": round(before + time.monotonic() - started, 3)}
        if trainer.is_global_zero:
            # A full disk must not hide the error that the fit ended with.
            with contextlib.suppress(*([] if manifest["status"] == "finished" else [OSError])):
                folder.write_manifest(manifest)


class OutOfMemoryError(TrainingError):
    """The device or the machine had too little memory for a step."""


def as_out_of_memory(error: BaseException, trainer: Trainer, batch_size: int) -> OutOfMemoryError | None:
    """Return an OutOfMemoryError with the epoch, the step and a remedy if memory ran out; None for other errors."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if not on_cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OutOfMemoryError(
        f"out of memory in epoch {trainer.current_epoch}, step {trainer.global_step} ({message}). Lower "
        f"data.batch_size ({batch_size}) or data.eval_batch_size, or use a smaller network; "
        "the epochs before are on disk."
    )
