"""Validate, test and predict with a finished run: nothing but the run's folder is needed."""

import json
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from losslab.errors import UserError
from losslab.run.checkpoint_files import loading
from losslab.run.first_process import say
from losslab.run.metrics_table import print_metrics
from losslab.run.predictions import write_predictions
from losslab.run.provenance import git_state, require_same_data, utc_now
from losslab.run.run_folder import study_name, write_whole
from losslab.run.test_reads import note_test_read
from losslab.run.trackers import finish_trackers, tracker_arguments
from losslab.run.trained import Options, Trained, find_trained
from losslab.run.wandb_summary import Summary

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
    return evaluate_trained(stage, find_trained(stage, tokens, options))


def evaluate_trained(stage: Stage, trained: Trained) -> tuple[Path, dict[str, float]]:
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
        try:
            out.mkdir(exist_ok=True)
            write_predictions(out / "predictions.npz", model.evaluated)  # type: ignore[arg-type]
            record = {"at": utc_now(), "checkpoint": checkpoint.name, "data_name": data.data_name, **git_state()}
            write_whole(out / "metrics.json", json.dumps({**record, "metrics": metrics}, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}.") from None
        finish_trackers(trainer, Summary(folder, out / "predictions.npz", data, "test"))
    return out, metrics
