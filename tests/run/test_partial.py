"""A run is finished when the rule in its own configuration was reached, and its numbers are of its last weights."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from losslab.cli import main
from losslab.run import CommandLine, RunFolder, find_run, fit_run
from losslab.run.callbacks import EpochCheckpoints

EARLY = "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: %s, patience: 1%s}}"
FIRST_EPOCH = ", mode: max, stopping_threshold: 0.01"
BY_STEPS = ["--trainer.max_epochs", "-1", "--trainer.max_steps"]


def only_run(name: str) -> RunFolder:
    (folder,) = Path("runs", name).iterdir()
    return RunFolder(folder)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]


def require_numbers_of_the_last_weights(run: RunFolder) -> None:
    """Compare the last row of metrics.csv with a new validation of last.ckpt."""
    assert main(["validate", "--run", str(run.path)]) == 0
    metrics = json.loads((run.path / "validate" / "metrics.json").read_text())["metrics"]
    row = run.epochs()[-1]
    assert {key: float(row[key]) for key in metrics} == pytest.approx(metrics, abs=1e-5)
    assert row["train/acc"] != ""


class StopsBySecondEpoch(Callback):
    """A user's own, whose reason nobody knows."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def test_fast_dev_run_is_partial_and_no_command_takes_it_for_the_newest_finished_run(
    tiny_mlp: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.fast_dev_run", "true"]) == 0
    run = only_run("tiny")
    assert run.manifest()["status"] == "partial"
    assert run.manifest()["partial_reason"] == "fast_dev_run"
    assert main(["test", "--run", "runs/tiny"]) == 2
    assert "none of them finished" in capsys.readouterr().err
    assert not Path("runs/test_reads.jsonl").exists()
    assert main(["fit", "--run", str(run.path)]) == 2
    assert "was ended by its own trainer.fast_dev_run" in capsys.readouterr().err

    assert main(["test", "--run", str(run.path)]) == 0
    assert f"{run.path} is partial (fast_dev_run)" in caplog.text
    assert "is noted" in caplog.text
    assert "Limited: fast_dev_run=True" in capsys.readouterr().out
    record = json.loads((run.path / "test" / "metrics.json").read_text())
    assert record["run_status"] == "partial (fast_dev_run)"
    assert record["conditions"] == {"fast_dev_run": True}
    assert main(["runs"]) == 0
    assert "partial" in capsys.readouterr().out


def test_max_time_and_a_callback_that_stops_make_a_run_partial(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.max_time", "00:00:00:00", "--trainer.max_epochs", "1000"]) == 0
    run = only_run("tiny")
    assert run.status() == "partial (max_time)"
    assert main(["fit", "--run", str(run.path)]) == 2  # its time is over
    with pytest.raises(Exception, match="none of them finished"):
        find_run("runs/tiny", finished=True)

    fitted = fit_run(
        CommandLine([*tiny_mlp, "--trainer.max_epochs", "9"], ""), Path("own"), False, [StopsBySecondEpoch()]
    )
    assert fitted.partial == "stopped by a callback"
    assert fitted.folder.status() == "partial (stopped by a callback)"
    require_numbers_of_the_last_weights(fitted.folder)
    fit_run(CommandLine([*tiny_mlp, "--trainer.max_epochs", "9"], ""), fitted.folder, False)
    assert fitted.folder.status() == "finished"


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([*BY_STEPS, "17"], 17),
        pytest.param([*BY_STEPS, "20"], 20, marks=pytest.mark.slow),
        (["--trainer.max_epochs", "5", "--trainer.max_steps", "12"], 12),
        (["--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"], 30),
        pytest.param(["--trainer.max_epochs", "2", "--trainer.val_check_interval", "0.3"], 20, marks=pytest.mark.slow),
        (["--trainer.max_epochs", "30", f"--trainer.callbacks=[{EARLY % ('val/acc', ', mode: max')}]"], None),
        (["--trainer.max_epochs", "30", f"--trainer.callbacks=[{EARLY % ('val/acc', FIRST_EPOCH)}]"], None),
    ],
    ids=[
        "steps",
        "steps at an epoch's end",
        "epochs and steps",
        "every second epoch",
        "within epochs",
        "early stopping",
        "early stopping in the first epoch",
    ],
)
def test_a_finished_run_has_the_numbers_of_its_last_weights(
    tiny_mlp: list[str], options: list[str], steps: int | None
) -> None:
    assert main(["fit", *tiny_mlp, *options]) == 0
    run = only_run("tiny")
    assert run.manifest()["status"] == "finished"
    assert find_run("runs/tiny", finished=True).path == run.path
    if steps is None:
        assert int(run.epochs()[-1]["step"]) < 300
    else:
        assert int(run.epochs()[-1]["step"]) == steps
        assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == steps
    require_numbers_of_the_last_weights(run)


def test_a_row_without_a_validation_at_its_end_has_no_validation_numbers(tiny_mlp: list[str]) -> None:
    options = ["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"]
    assert main(["fit", *tiny_mlp, *options]) == 0
    assert [bool(row["val/loss"]) for row in only_run("tiny").epochs()] == [False, True, False, True]


def test_a_training_by_steps_that_is_killed_behind_an_epoch_goes_on_to_the_same_end(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed_after_the_second_epoch(self: EpochCheckpoints, trainer: Trainer, pl_module: LightningModule) -> None:
        save(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise Killed

    assert main(["fit", *tiny_mlp, *BY_STEPS, "35", "--name", "whole"]) == 0
    save = EpochCheckpoints.on_train_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(EpochCheckpoints, "on_train_epoch_end", killed_after_the_second_epoch)
        with pytest.raises(Killed):
            main(["fit", *tiny_mlp, *BY_STEPS, "35"])
    assert main(["fit", *tiny_mlp, *BY_STEPS, "35", "--ckpt_path", "last"]) == 0
    whole, continued = only_run("whole"), only_run("tiny")
    assert continued.epochs() == whole.epochs()
    assert [row["step"] for row in whole.epochs()] == ["10", "20", "30", "35"]
    assert all(torch.equal(weights(whole)[name], tensor) for name, tensor in weights(continued).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epochs", "-1"], "max_epochs is -1 and trainer.max_steps -1: the training never ends"),
        (["--trainer.max_steps", "0"], "trainer.max_steps must be >= 1, or -1 for no limit, got 0"),
        (["--trainer.limit_val_batches", "0"], "trainer.limit_val_batches must be > 0, got 0"),
        (["--trainer.limit_train_batches", "0.0"], "trainer.limit_train_batches must be > 0, got 0.0"),
        ([f"--trainer.callbacks=[{EARLY % ('val/acc', '')}]"], "has mode: min for val/acc, but max is better"),
        ([f"--trainer.callbacks=[{EARLY % ('val/los', '')}]"], "monitors 'val/los', which is not logged; did you mean"),
        ([f"--trainer.callbacks=[{EARLY % ('train/acc', ', mode: max')}]"], "monitors 'train/acc', which is not"),
        (
            ["--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
             "{monitor: val/ece, mode: max}}]"],
            "ModelCheckpoint has mode: max for val/ece, but min is better",
        ),
        (["--model.loss", "torch.nn.NLLLoss"], "torch.nn.NLLLoss takes log-probabilities: use CrossEntropyLoss"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tiny_mlp: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_mlp, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_conditions_are_in_the_records_and_in_what_a_test_says(
    tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--trainer.limit_train_batches", "3", "--trainer.limit_test_batches", "1", "--data.eval_batch_size", "7"]
    assert main(["fit", *tiny_mlp, *limits]) == 0
    run = only_run("tiny")
    assert run.status() == "finished"
    assert run.manifest()["conditions"] == {"limit_train_batches": 3, "limit_test_batches": 1}
    capsys.readouterr()
    assert main(["test", "--run", "runs/tiny"]) == 0
    assert "Limited: limit_test_batches=1. Not the whole split was read." in capsys.readouterr().out
    assert json.loads((run.path / "test" / "metrics.json").read_text())["conditions"] == {"limit_test_batches": 1}
    assert main(["runs"]) == 0
    assert "limit_train_batches=3" in "".join(capsys.readouterr().out.split())
    reads = Path("runs/test_reads.jsonl").read_text()
    assert main(["test", "--run", "runs/tiny", "--trainer.limit_test_batches", "0"]) == 2
    assert "there would be nothing to test" in capsys.readouterr().err
    assert Path("runs/test_reads.jsonl").read_text() == reads


@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_overfit_batches_trains_on_the_same_batches_in_every_epoch() -> None:
    class Labels(Callback):
        def __init__(self) -> None:
            self.epochs: list[list[int]] = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.epochs.append([])

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.epochs[-1].extend(float(image.sum()) for image in batch[0])

    labels = Labels()
    words = [
        "--model",
        "MLP",
        "--data",
        "tiny_digits.TinyDigits",
        "--data.batch_size",
        "20",
        "--trainer.accelerator=cpu",
    ]
    fit_run(CommandLine([*words, "--trainer.overfit_batches", "2"], ""), Path("run"), False, [labels])
    assert len(labels.epochs[0]) == 40
    assert labels.epochs[0] == labels.epochs[1] == labels.epochs[2]
