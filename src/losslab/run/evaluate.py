"""`losslab validate` and `test`: evaluate a finished run, from its folder alone."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from losslab.errors import UserError, expand_path, notice
from losslab.run.callbacks import loading, require_same_config
from losslab.run.code import changed_code, code_digests
from losslab.run.command_line import CommandLine, Parts, option_value
from losslab.run.config import Config, differences
from losslab.run.folder import RunFolder, find_run, study_name, write_predictions, write_whole, writing
from losslab.run.provenance import conditions, git_state, note_test_read, require_same_data, utc_now
from losslab.run.terminal import console, say
from losslab.run.tracking import TrackerSummary, finish_trackers, tracker_arguments

Stage = Literal["validate", "test", "predict"]

LIMITS = {
    "validate": ("fast_dev_run", "limit_val_batches", "overfit_batches"),
    "test": ("fast_dev_run", "limit_test_batches"),
    "predict": ("fast_dev_run", "limit_predict_batches"),
}
"""The conditions under which a command reads a part of its split."""

Options = Sequence[tuple[str, str]]
"""Options of a command, as (name, help)."""

OPTIONS = (
    ("run", "A run's folder, or runs/NAME for the newest finished run there."),
    ("ckpt_path", "'last' (the default), 'best', or a checkpoint in a run's folder."),
)


class FinishedRun(NamedTuple):
    """A run, one of its checkpoints, and the command line that builds its parts."""

    folder: RunFolder
    checkpoint: Path
    command_line: CommandLine

    def limits(self, stage: Stage) -> dict[str, Any]:
        """Return the conditions under which this command reads a part of its split, by name; {} if it reads all."""
        given = conditions(self.command_line.resolved())
        return {name: given[name] for name in LIMITS[stage] if name in given}

    def changed_code(self) -> list[str]:
        """Return the classes and functions of the configuration whose code has changed since the training."""
        return changed_code(self.folder.manifest().get("code", {}), code_digests(self.command_line.resolved()))

    def output_folder(self, command: str) -> Path:
        """Return RUN/command, or RUN/command-best for the best checkpoint."""
        return self.folder.path / (command if self.checkpoint.stem == "last" else f"{command}-{self.checkpoint.stem}")

    def build(self, trackers: Config | None = None, **trainer_arguments: Any) -> Parts:
        """Build the run's parts, with a silent Trainer; see `CommandLine.build`."""
        trainer_arguments |= {"enable_progress_bar": False, "enable_model_summary": False}
        return self.command_line.build((), trackers, default_root_dir=str(self.folder.path), **trainer_arguments)

    def build_in_one_process(self, **trainer_arguments: Any) -> Parts:
        """Build the run's parts for one process without trackers, however many processes trained it."""
        return self.build(devices=1, num_nodes=1, strategy="auto", logger=False, **trainer_arguments)


def evaluate_command(stage: Stage, tokens: list[str], options: Options = ()) -> None:
    """Evaluate the run that a command line names, write into its subfolder of that name, and print its metrics."""
    run = find_finished_run(stage, tokens, options)
    folder, metrics = evaluate_run(stage, run)
    rank_zero_only(print_metrics)(metrics)
    if limits := [f"{name}={value}" for name, value in run.limits(stage).items()]:
        say(f"Limited: {', '.join(limits)}. Not the whole split was read.")
    say(f"Written to {folder}")


validate_command = functools.partial(evaluate_command, "validate")
test_command = functools.partial(evaluate_command, "test")


def find_finished_run(command: str, tokens: Sequence[str], options: Options = ()) -> FinishedRun:
    """Return the run that a command line names, after a check that both have the same configuration.

    Args:
        command: such as "test".
        tokens: the command line: `--run` or `--ckpt_path`, and changes that do not affect the trained weights, such as
            `--data.root` or `--trainer.accelerator`.
        options: further options, for the help.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint cannot be read, or the command line, the run's
            config.yaml and the checkpoint differ.
    """
    prog, options = f"losslab {command}", (*OPTIONS, *options)
    if any(token in ("-h", "--help") for token in tokens):
        CommandLine(tokens, prog, options)  # prints the help and exits
    folder, checkpoint = _run_and_checkpoint(command, tokens)
    command_line = CommandLine(["--config", str(folder.config_file), *tokens], prog, options, recorded=True)
    config = command_line.resolved()
    if changed := differences(folder.config(), config, with_trainer=False):
        raise UserError(
            f"{folder.path} was trained with another configuration: {'; '.join(changed)}. "
            "Omit these changes, or fit a new run."
        )
    require_same_config(checkpoint, config)
    if folder.manifest() and folder.status() != "finished":
        noted = " This read of the test images counts, and is noted." if command == "test" else ""
        notice(f"{folder.path} is {folder.status()}: its weights are not those of a whole training.{noted}")
    run = FinishedRun(folder, checkpoint, command_line)
    if names := ", ".join(run.changed_code()):
        notice(f"the code of {names}, or what it uses, has changed since {folder.path} was trained.")
    return run


def evaluate_run(stage: Stage, run: FinishedRun, test_images: str | None = None) -> tuple[Path, dict[str, float]]:
    """Load a run's checkpoint, evaluate it, and write predictions.npz and metrics.json.

    Args:
        stage: "validate" and "predict" read the validation split; "test" reads the test split, and adds a line to
            runs/test_reads.jsonl each time.
        run: the run; its command line holds its configuration.
        test_images: the SHA-256 that the test images must have; None: any.

    Returns:
        The folder written to, and the metrics under their keys ({} for "predict").

    Raises:
        UserError: the data differ from the run's, no batch is to be read, or the folder cannot be written.
    """
    folder, checkpoint, limits = run.folder, run.checkpoint, run.limits(stage)
    for name, value in limits.items():
        if value == 0:
            raise UserError(f"trainer.{name} is {value}: there would be nothing to {stage}. Omit it.")
    out = run.output_folder(stage)
    study = folder.path.parent.parent.parent  # of a study's run, runs/STUDY/runs/SETTING/SEED
    group = study_name(study) if (study / "study.json").is_file() else folder.path.parent.name
    trackers = tracker_arguments(out, group, f"{folder.path.name} {stage}", stage)
    trainer, model, data = run.build(trackers, **({} if stage == "test" else {"logger": False}))
    data.prepare_data()
    data.setup(stage)
    known = folder.manifest()
    if test_images is not None:
        known.setdefault("hashes", {})["test"] = test_images
    require_same_data(known, data, folder.path)
    if stage == "test" and trainer.is_global_zero:
        note_test_read(folder.config(), data.data_name, folder.path)
    arguments: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True}
    with loading(checkpoint):
        if stage == "predict":
            trainer.predict(model, return_predictions=False, **arguments)
        else:
            getattr(trainer, stage)(model, verbose=False, **arguments)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        with writing(out):
            out.mkdir(exist_ok=True)
            write_predictions(out / "predictions.npz", model.evaluated)  # type: ignore[arg-type]
            record = {"at": utc_now(), "checkpoint": checkpoint.name, "data_name": data.data_name, **git_state()}
            record |= {"hashes": data.hashes, "code": code_digests(run.command_line.resolved())}
            record |= {"code_changed": run.changed_code(), "run_status": folder.status(), "conditions": limits}
            write_whole(out / "metrics.json", json.dumps({**record, "metrics": metrics}, indent=2) + "\n")
        finish_trackers(trainer, TrackerSummary(folder, out / "predictions.npz", data, "test"))
    return out, metrics


def print_metrics(metrics: dict[str, float]) -> None:
    """Print one split's metrics: the headline numbers, then precision and recall of each class.

    Args:
        metrics: by key, such as "test/recall/3", all with the same prefix. Nothing is printed for {}.
    """
    if not metrics:
        return
    prefix = next(iter(metrics)).split("/")[0]
    values = {key.removeprefix(f"{prefix}/"): value for key, value in metrics.items()}
    terminal = console()
    headline = ("acc", "precision/macro", "recall/macro", "f1/macro", "ece", "loss")
    terminal.print("  ".join(f"{key} {values[key]:.4f}" for key in headline if key in values))
    table = Table("class", "precision", "recall", title=f"{prefix}: each class")
    for key in values:
        if key.startswith("precision/") and key != "precision/macro":
            name = key.removeprefix("precision/")
            table.add_row(name, f"{values[key]:.4f}", f"{values[f'recall/{name}']:.4f}")
    terminal.print(table)


def _run_and_checkpoint(command: str, tokens: Sequence[str]) -> tuple[RunFolder, Path]:
    run, checkpoint = option_value(tokens, "run"), option_value(tokens, "ckpt_path")
    if checkpoint in (None, "last", "best"):
        if run is None:
            raise UserError(f"losslab {command} needs --run: a run's folder, or runs/NAME for its newest finished run.")
        folder = find_run(run, finished=True)
        say(f"Run: {folder.path}")
        return folder, folder.checkpoint(checkpoint or "last")
    path = expand_path(str(checkpoint), "--ckpt_path")
    folder = RunFolder(path.parent.parent)
    if not path.is_file() or not folder.config_file.is_file():
        raise UserError(f"ckpt_path must be 'last', 'best' or a checkpoint in a run's folder, got {str(path)!r}.")
    if run is not None and find_run(run, finished=False).path.resolve() != folder.path.resolve():
        raise UserError(f"--run {run} and --ckpt_path {path} are different runs: give one of them.")
    return folder, path
