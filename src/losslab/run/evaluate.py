"""Validate, test and predict with a finished run: nothing but the run's folder is needed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from losslab.errors import UserError
from losslab.run.callbacks import loading, require_same_config
from losslab.run.command_line import CommandLine, option_value
from losslab.run.config import differences
from losslab.run.folder import RunFolder, find_run, study_name, write_predictions, write_whole, writing
from losslab.run.provenance import git_state, note_test_read, require_same_data, utc_now
from losslab.run.terminal import say
from losslab.run.tracking import TrackerSummary, finish_trackers, tracker_arguments

Options = Sequence[tuple[str, str]]
"""Options of a command, as (name, help)."""

OPTIONS = (
    ("run", "A run's folder, or runs/NAME for the newest finished run there."),
    ("ckpt_path", "'last' (the default), 'best', or a checkpoint in a run's folder."),
)


class FinishedRun(NamedTuple):
    """A run, one of its checkpoints, and the command line that builds what was trained."""

    folder: RunFolder
    checkpoint: Path
    command_line: CommandLine

    def output_folder(self, command: str) -> Path:
        """RUN/command, or RUN/command-best."""
        return self.folder.path / (command if self.checkpoint.stem == "last" else f"{command}-{self.checkpoint.stem}")


def find_finished_run(command: str, tokens: Sequence[str], options: Options = ()) -> FinishedRun:
    """Find the run, and see that nobody asks for what it is not.

    Args:
        command: such as "test".
        tokens: the command line: `--run` or `--ckpt_path`, and changes that do not touch what was trained, such as
            `--data.root` or `--trainer.accelerator`.
        options: further options, for the help.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint cannot be read, or the command line, the run's
            config.yaml and the checkpoint differ.
    """
    prog, options = f"losslab {command}", (*OPTIONS, *options)
    if any(token in ("-h", "--help") for token in tokens):
        CommandLine(tokens, prog, options)  # prints the help and leaves
    folder, checkpoint = _run_and_checkpoint(command, tokens)
    command_line = CommandLine(["--config", str(folder.config_file), *tokens], prog, options)
    config = command_line.resolved()
    changed = [line for line in differences(folder.config(), config) if not line.startswith("trainer.")]
    if changed:
        raise UserError(
            f"{folder.path} was trained with another configuration: {'; '.join(changed)}. Leave these out, or fit anew."
        )
    require_same_config(checkpoint, config)
    return FinishedRun(folder, checkpoint, command_line)


def _run_and_checkpoint(command: str, tokens: Sequence[str]) -> tuple[RunFolder, Path]:
    run, checkpoint = option_value(tokens, "run"), option_value(tokens, "ckpt_path")
    if checkpoint in (None, "last", "best"):
        if run is None:
            raise UserError(f"losslab {command} needs --run: a run's folder, or runs/NAME for its newest finished run.")
        folder = find_run(run, finished=True)
        say(f"Run: {folder.path}")
        return folder, folder.checkpoint(checkpoint or "last")
    path = Path(str(checkpoint))
    folder = RunFolder(path.parent.parent)
    if not path.is_file() or not folder.config_file.is_file():
        raise UserError(f"ckpt_path must be 'last', 'best' or a checkpoint in a run's folder, got {str(path)!r}.")
    if run is not None and find_run(run, finished=False).path.resolve() != folder.path.resolve():
        raise UserError(f"--run {run} and --ckpt_path {path} are different runs: give one of them.")
    return folder, path


Stage = Literal["validate", "test", "predict"]


def evaluate_command(stage: Stage, tokens: list[str], options: Options = ()) -> None:
    """`losslab validate`, `test` and `predict`: evaluate a run and write into its subfolder of that name."""
    folder, metrics = evaluate(stage, tokens, options)
    rank_zero_only(print_metrics)(metrics)
    say(f"Written to {folder}")


def evaluate(stage: Stage, tokens: list[str], options: Options = ()) -> tuple[Path, dict[str, float]]:
    """Load a run's checkpoint and evaluate it on the validation ("validate", "predict") or the test split.

    Args:
        stage: what to do. Every "test" adds a line to runs/test_reads.jsonl.
        tokens: the command line: `--run` or `--ckpt_path`, and changes that do not touch what was trained, such as
            `--data.root` or `--trainer.accelerator`.
        options: further options, for the help.

    Returns:
        The folder written to, and the metrics under their keys ({} for "predict").

    Raises:
        UserError: there is no such run or checkpoint, or the command line or the data differ from the run's.
    """
    return evaluate_run(stage, find_finished_run(stage, tokens, options))


def evaluate_run(stage: Stage, trained: FinishedRun) -> tuple[Path, dict[str, float]]:
    """The same for a run that is found already, whose configuration its command line holds."""
    folder, checkpoint, command_line = trained
    out = trained.output_folder(stage)
    study = folder.path.parent.parent.parent  # where the run is a study's, runs/STUDY/runs/SETTING/SEED
    group = study_name(study) if (study / "study.json").is_file() else folder.path.parent.name
    trackers = tracker_arguments(out, group, f"{folder.path.name} {stage}", stage)
    trainer, model, data = command_line.build(
        (), trackers, default_root_dir=str(folder.path), enable_progress_bar=False, enable_model_summary=False,
        **({} if stage == "test" else {"logger": False}),
    )  # fmt: skip
    data.prepare_data()
    data.setup(stage)
    require_same_data(folder.manifest(), data, folder.path)
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
            write_whole(out / "metrics.json", json.dumps({**record, "metrics": metrics}, indent=2) + "\n")
        finish_trackers(trainer, TrackerSummary(folder, out / "predictions.npz", data, "test"))
    return out, metrics


def print_metrics(metrics: dict[str, float]) -> None:
    """Print one split's metrics: the headline numbers, then precision and recall of each class.

    Args:
        metrics: by key, such as "test/recall/3"; one prefix only. Nothing is printed for {}.
    """
    if not metrics:
        return
    prefix = next(iter(metrics)).split("/")[0]
    values = {key.removeprefix(f"{prefix}/"): value for key, value in metrics.items()}
    console = Console(soft_wrap=True)
    headline = ("acc", "precision/macro", "recall/macro", "f1/macro", "ece", "loss")
    console.print("  ".join(f"{key} {values[key]:.4f}" for key in headline if key in values))
    table = Table("class", "precision", "recall", title=f"{prefix}: each class")
    for key in values:
        if key.startswith("precision/") and key != "precision/macro":
            name = key.removeprefix("precision/")
            table.add_row(name, f"{values[key]:.4f}", f"{values[f'recall/{name}']:.4f}")
    console.print(table)
