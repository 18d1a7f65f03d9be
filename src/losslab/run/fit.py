"""`losslab fit`: train an experiment in a new run folder, or continue an unfinished run."""

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from losslab.data import ImageDataModule
from losslab.errors import TrainingError, UserError, did_you_mean, expand_path
from losslab.metrics import better_direction, metric_keys
from losslab.models import Classifier
from losslab.run.callbacks import (
    EpochCheckpoints,
    Interrupted,
    Interruption,
    Records,
    copy_weights,
    loading,
    require_same_config,
    same_weights,
    without,
)
from losslab.run.code import code_digests
from losslab.run.command_line import CommandLine, Parts, option_value
from losslab.run.config import Config, class_name, differences
from losslab.run.folder import RunFolder, find_run, named_folder, new_run_path, write_predictions
from losslab.run.precision import float32_precision
from losslab.run.provenance import continue_code, new_manifest, require_same_data, utc_now
from losslab.run.terminal import say
from losslab.run.tracking import TrackerSummary, finish_trackers, tracker_arguments

OPTIONS = (
    ("name", "Folder of the runs under runs/; by default the experiment file's name."),
    ("run", "Continue this run: its folder, or runs/NAME for the newest run there."),
    ("ckpt_path", "'last' continues the newest unfinished run of this name where it stopped."),
    ("accept_code_change", "Continue a run although the code of its classes changed, which is recorded."),
)


def fit_command(tokens: list[str]) -> None:
    """Train a new run, or continue an unfinished one, and print its folder and headline numbers."""
    run = option_value(tokens, "run")
    folder = find_run(run, finished=False) if run is not None else None
    if folder is not None:
        tokens = ["--config", str(folder.config_file), *tokens]
    command_line = CommandLine(tokens, "losslab fit", OPTIONS, recorded=folder is not None)
    config, options = command_line.resolved(), command_line.config
    experiment = option_value(tokens, "config")
    name = options.name
    if name is None:
        name = expand_path(experiment, "--config").stem if experiment else class_name(config["model"]).lower()
    if options.ckpt_path is not None:
        folder = folder or _run_of_checkpoint(options.ckpt_path, name)
    if folder is not None:
        if changed := differences(folder.config(), config):
            raise UserError(
                f"{folder.path} was started with another configuration ({'; '.join(changed)}). "
                "Continue it without these changes, or start a new run without --run and --ckpt_path."
            )
        if folder.status() == "finished":
            say(f"{folder.path} is finished already.")
            return
        if (reason := folder.manifest().get("partial_reason")) in ("fast_dev_run", "max_time"):
            raise UserError(f"{folder.path} was ended by its own trainer.{reason}: start a new run without it.")
        say(f"Continuing {folder.path}")
    path = folder.path if folder else new_run_path(name, config)
    fitted = fit_run(command_line, folder or path, True, trackers=tracker_arguments(path, name, path.name, "fit"))
    finish_trackers(fitted.trainer, fitted.summary())
    metrics, seconds = fitted.metrics, fitted.folder.manifest().get("seconds", 0.0)
    partial = f", partial ({fitted.partial})" if fitted.partial else ""
    say(
        f"{path}{partial}: validation accuracy {metrics['val/acc']:.4f}, macro precision "
        f"{metrics['val/precision/macro']:.4f}, macro recall {metrics['val/recall/macro']:.4f}, {seconds:.0f} s"
    )


def _run_of_checkpoint(checkpoint: str, name: str) -> RunFolder:
    """Return the run of a checkpoint; a fit continues where it stopped, so only from the last.ckpt of a run folder."""
    if checkpoint == "last":
        return find_run(named_folder(name), finished=False)
    path = expand_path(checkpoint, "--ckpt_path")
    folder = RunFolder(path.parent.parent)
    if path != folder.checkpoints / "last.ckpt" or not folder.config_file.is_file():
        allowed = "'last' or a run folder's checkpoints/last.ckpt"
        raise UserError(f"ckpt_path of a fit must be {allowed}, got {checkpoint!r}.")
    folder.checkpoint("last")
    return folder


class Fit(NamedTuple):
    """A fit that has ended: run folder, metrics of its last weights, data, and the Trainer, its trackers still open."""

    folder: RunFolder
    metrics: dict[str, float]
    trainer: Trainer
    data: ImageDataModule
    partial: str | None
    """What ended the fit before the epochs, steps or early stopping of its configuration; None for a finished one."""
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
    folder = where if isinstance(where, RunFolder) else RunFolder(where)
    records, checkpoints, interruption = Records(folder), EpochCheckpoints(folder), Interruption(folder)
    visible = progress and config["trainer"]["enable_progress_bar"] is not False
    bar = [RichProgressBar(refresh_rate=10)] if visible else []
    trainer, model, data = built = command_line.build(
        [*callbacks, *bar, interruption, records, checkpoints],
        trackers,
        default_root_dir=str(folder.path),
        enable_progress_bar=visible,
        enable_model_summary=visible,
    )
    require_complete(config, built)
    data.prepare_data()
    data.setup("fit")
    model.prepare_loss(trainer, data)  # type: ignore[operator]
    # Only the first of several processes makes the folder and writes into it.
    if trainer.is_global_zero and not isinstance(where, RunFolder):
        RunFolder.create(folder.path, config)
    with folder.held() if trainer.is_global_zero else contextlib.nullcontext(), interruption:
        manifest, last = folder.manifest(), folder.checkpoints / "last.ckpt"
        for ending in ("failure", "partial_reason"):
            manifest.pop(ending, None)
        if folder.manifest_file.exists():
            require_same_data(manifest, data, folder.path)
            accept = bool(command_line.config.get("accept_code_change"))
            manifest |= continue_code(manifest, code_digests(config), folder.path, "start a new run", accept)
        if last.is_file():
            require_same_config(last, config)
        manifest = new_manifest(config, data) | manifest
        manifest |= {"device": str(trainer.strategy.root_device), "status": "running"}
        if trainer.is_global_zero:
            folder.write_manifest(manifest)
        metrics = _fit_recorded(built, (records, checkpoints), manifest, last if last.is_file() else None)
    return Fit(folder, metrics, trainer, data, manifest.get("partial_reason"), interruption.received)


def _fit_recorded(
    built: Parts, writers: tuple[Records, EpochCheckpoints], manifest: dict[str, Any], last: Path | None
) -> dict[str, float]:
    """Run the Trainer, record in the manifest how it ended, and return the metrics of its last weights."""
    trainer, model, data = built
    folder = writers[0].folder
    started, before = time.monotonic(), manifest.get("seconds", 0.0)
    manifest["status"] = "interrupted"  # a signal raises no Exception
    try:
        with loading(last):
            # With max_steps, Lightning would repeat the end of the epoch that a checkpoint dates from.
            trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
            trainer.fit(model, datamodule=data, ckpt_path=last, weights_only=True)
        partial = cut_short(trainer)
        metrics = _metrics_of_last_weights(built, *writers)
        manifest |= {"status": "finished"} if partial is None else {"status": "partial", "partial_reason": partial}
        return {key: float(value) for key, value in metrics.items()}
    except SIGTERMException:  # Lightning's own, at the end of an epoch; its exit status would be 0
        raise Interrupted(signal.SIGTERM) from None
    except Exception as error:
        manifest |= {"status": "failed", "failure": f"{type(error).__name__}: {error}"}
        if out_of_memory := _out_of_memory(error, trainer, data.batch_size):
            raise out_of_memory from error
        misfit = any(text in str(error) for text in ("which is not available", "`val_check_interval` ("))
        if misfit or isinstance(error, MisconfigurationException):  # Lightning compares arguments and data in the fit
            raise UserError(" ".join(str(error).split())) from error
        raise
    finally:
        ended = manifest["status"] in ("finished", "partial")
        if not ended:
            finish_trackers(trainer)
        manifest |= {"ended_at": utc_now(), "seconds": round(before + time.monotonic() - started, 3)}
        manifest["float32"] = float32_precision()  # a callback may have set it
        if trainer.is_global_zero:
            # A full disk must not hide the error that the fit ended with.
            with contextlib.suppress(*([] if ended else [OSError])):
                folder.write_manifest(manifest)


def _metrics_of_last_weights(built: Parts, records: Records, checkpoints: EpochCheckpoints) -> dict[str, Any]:
    """Return the metrics of the weights with which the fit ended, and have them in all files of the run.

    The last validation may have read others: the training ended within an epoch, not every epoch is validated, or a
    callback has put averaged weights in their place. Then they are validated here, and written anew.
    """
    trainer, model, data = built
    assert isinstance(model, Classifier)
    metrics: dict[str, Any] = dict(trainer.callback_metrics)
    last = copy_weights(trainer)
    complete = same_weights(checkpoints.validated, last)
    complete &= model.evaluate_train == "never" or same_weights(records.measured, last)
    if trainer.strategy.reduce_boolean_decision(complete):
        return metrics
    trainer.validate(model, datamodule=data, verbose=False)
    measured: dict[str, Any] = dict(trainer.callback_metrics)
    if records.train_accuracy is not None:
        measured["train/acc"] = records.train_accuracy
        for logger in trainer.loggers:
            logger.log_metrics({"train/acc": records.train_accuracy}, trainer.global_step)
    if trainer.is_global_zero:
        records.complete(measured)
        write_predictions(records.folder.predictions_file, model.evaluated)  # type: ignore[arg-type]
    # In a run that was killed behind its training, `last` is from last.ckpt.
    if not same_weights(checkpoints.validated, checkpoints.saved or last):
        checkpoints.save(trainer, "last", checkpoints.validated)
    return without(metrics, "val", "train/acc") | measured


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def cut_short(trainer: Trainer) -> str | None:
    """Return what ended a fit before the rule of its configuration (epochs, steps, early stopping); None if it did not.

    A callback of the user's own that stops the training counts as a rule if it is a subclass of EarlyStopping.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "fast_dev_run"
    epochs = trainer.max_epochs or -1
    early = [each for each in _callbacks(trainer) if isinstance(each, EarlyStopping)]
    stopped = any(each.stopped_epoch > 0 or each.stopping_reason != EarlyStoppingReason.NOT_STOPPED for each in early)
    if stopped or 0 <= epochs <= trainer.current_epoch or 0 <= trainer.max_steps <= trainer.global_step:
        return None
    timers = (each.time_remaining() for each in _callbacks(trainer) if isinstance(each, Timer))
    return "max_time" if any(left is not None and left <= 0 for left in timers) else "stopped by a callback"


def require_complete(config: Config, parts: Parts, as_result: bool = False) -> None:
    """Check, before a training, that it ends, is validated, and is stopped by a metric in the right direction.

    Args:
        config: the training's resolved configuration.
        parts: built from it.
        as_result: the training is one of a study, which compares trainings that reached their end.

    Raises:
        UserError: names the argument, its value and what to write instead.
    """
    arguments, (trainer, model, data) = config["trainer"], parts
    epochs, steps = arguments["max_epochs"], arguments["max_steps"]
    for name, value in (("max_epochs", epochs), ("max_steps", steps)):
        if value is not None and value != -1 and value < 1:
            raise UserError(f"trainer.{name} must be >= 1, or -1 for no limit, got {value}.")
    monitored = [each for each in _callbacks(trainer) if isinstance(each, EarlyStopping | ModelCheckpoint)]
    stops = any(isinstance(each, EarlyStopping) for each in monitored) or (arguments["max_time"] and not as_result)
    if epochs in (None, -1) and steps == -1 and not stops:
        raise UserError(f"trainer.max_epochs is {epochs} and trainer.max_steps -1: the training never ends. Give one.")
    if as_result and arguments["fast_dev_run"]:
        raise UserError("trainer.fast_dev_run trains a few batches: it gives no result of a study. Omit it.")
    for name in ("limit_train_batches", "limit_val_batches"):
        if arguments[name] is not None and arguments[name] == 0:
            raise UserError(
                f"trainer.{name} must be > 0, got {arguments[name]}: a run is trained, and its numbers are those of a "
                "validation. To validate less often, give trainer.check_val_every_n_epoch."
            )
    known = ["train/loss", "train/acc_running", *(f"val/{key}" for key in ("loss", *metric_keys(data.class_names)))]
    known += ["train/acc"] if getattr(model, "evaluate_train", "") == "every_epoch" else []
    for callback in monitored:
        name, key = type(callback).__name__, callback.monitor
        if key in known and callback.mode != (right := better_direction(key)[:3]):
            raise UserError(f"{name} has mode: {callback.mode} for {key}, but {right} is better: give mode: {right}.")
        if key is not None and key not in known and not _logs_more(trainer, model):
            raise UserError(f"{name} monitors {key!r}, which is not logged{did_you_mean(key, known)}")


def _logs_more(trainer: Trainer, model: LightningModule) -> bool:
    """Return whether a user's callback, or a hook of a user's network, may log metrics that are not losslab's."""
    ours = Classifier.__module__.partition(".")[0]
    if any(type(callback).__module__.split(".")[0] not in (ours, "lightning") for callback in _callbacks(trainer)):
        return True
    users = [each for each in type(model).__mro__ if each.__module__.split(".")[0] not in (ours, "lightning", "torch")]
    return any(name.startswith("on_") or name.endswith("_step") for each in users for name in vars(each))


def _out_of_memory(error: Exception, trainer: Trainer, batch_size: int) -> TrainingError | None:
    """Return an error with the epoch, the step and a remedy if memory ran out; None for other errors."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if not on_cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError(
        f"out of memory in epoch {trainer.current_epoch}, step {trainer.global_step} ({message}). Lower "
        f"data.batch_size ({batch_size}) or data.eval_batch_size, or use a smaller network; "
        "the epochs before are on disk."
    )
