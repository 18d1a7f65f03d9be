"""Validate, test and predict with a finished run: nothing but the run's folder is needed."""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

from losslab.errors import UserError
from losslab.run.command_line import CommandLine, option_value
from losslab.run.config import config_hash, differences
from losslab.run.metrics_table import print_metrics
from losslab.run.provenance import git_state, require_same_data, utc_now
from losslab.run.records import write_predictions
from losslab.run.run_folder import RUNS, RunFolder, find_run, write_whole

Stage = Literal["validate", "test", "predict"]

OPTIONS = (
    ("run", "A run's folder, or runs/NAME for the newest finished run there."),
    ("ckpt_path", "'last' (the default), 'best', or a checkpoint in a run's folder."),
)


def evaluate_command(stage: Stage, tokens: list[str]) -> None:
    """`losslab validate`, `test` and `predict`: evaluate a run and write into its subfolder of that name."""
    folder, metrics = evaluate(stage, tokens)
    print_metrics(metrics)
    print(f"Written to {folder}")


def evaluate(stage: Stage, tokens: list[str]) -> tuple[Path, dict[str, float]]:
    """Load a run's checkpoint and evaluate it on the validation ("validate", "predict") or the test split.

    Args:
        stage: what to do. Every "test" adds a line to runs/test_reads.jsonl.
        tokens: the command line: `--run` or `--ckpt_path`, and changes that do not touch what was trained, such as
            `--data.root` or `--trainer.accelerator`.

    Returns:
        The folder written to, and the metrics under their keys ({} for "predict").

    Raises:
        UserError: there is no such run or checkpoint, or the command line or the data differ from the run's.
    """
    if any(token in ("-h", "--help") for token in tokens):
        CommandLine(tokens, f"losslab {stage}", OPTIONS)  # prints the help and leaves
    folder, checkpoint = _run_and_checkpoint(stage, tokens)
    command_line = CommandLine(["--config", str(folder.config_file), *tokens], f"losslab {stage}", OPTIONS)
    config, trained = command_line.resolved(), folder.config()
    changed = [line for line in differences(trained, config) if not line.startswith("trainer.")]
    if changed:
        raise UserError(
            f"{folder.path} was trained with another configuration: {'; '.join(changed)}. Leave these out, or fit anew."
        )
    trainer, model, data = command_line.build(
        default_root_dir=str(folder.path), enable_progress_bar=False, enable_model_summary=False, logger=False
    )
    data.prepare_data()
    data.setup(stage)
    require_same_data(folder.manifest(), data, folder.path)
    if stage == "test":
        _note_test_read(config, folder)
    arguments: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True}
    with warnings.catch_warnings():
        # The checkpoint also knows the callbacks of the fit, which an evaluation does not need.
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
        if stage == "predict":
            trainer.predict(model, return_predictions=False, **arguments)
        else:
            getattr(trainer, stage)(model, verbose=False, **arguments)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    out = folder.path / (stage if checkpoint.stem == "last" else f"{stage}-{checkpoint.stem}")
    if trainer.is_global_zero:
        try:
            out.mkdir(exist_ok=True)
            write_predictions(out / "predictions.npz", model.evaluated)  # type: ignore[arg-type]
            record = {"at": utc_now(), "checkpoint": checkpoint.name, "data_name": data.data_name, **git_state()}
            write_whole(out / "metrics.json", json.dumps({**record, "metrics": metrics}, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}.") from None
    return out, metrics


def _run_and_checkpoint(stage: Stage, tokens: list[str]) -> tuple[RunFolder, Path]:
    run, checkpoint = option_value(tokens, "run"), option_value(tokens, "ckpt_path")
    if checkpoint in (None, "last", "best"):
        if run is None:
            raise UserError(f"losslab {stage} needs --run: a run's folder, or runs/NAME for its newest finished run.")
        folder = find_run(run, finished=True)
        print(f"Run: {folder.path}")
        return folder, folder.checkpoint(checkpoint or "last")
    path = Path(str(checkpoint))
    folder = RunFolder(path.parent.parent)
    if not path.is_file() or not folder.config_file.is_file():
        raise UserError(f"ckpt_path must be 'last', 'best' or a checkpoint in a run's folder, got {str(path)!r}.")
    if run is not None and find_run(run, finished=False).path.resolve() != folder.path.resolve():
        raise UserError(f"--run {run} and --ckpt_path {path} are different runs: give one of them.")
    return folder, path


def _note_test_read(config: dict[str, Any], folder: RunFolder) -> None:
    """Every look at the test images is counted, before it happens."""
    line = {"at": utc_now(), "config_hash": config_hash(config), "run": str(folder.path), **git_state()}
    try:
        RUNS.mkdir(exist_ok=True)
        with (RUNS / "test_reads.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"cannot note the test in {RUNS}/test_reads.jsonl: {error.strerror}.") from None
