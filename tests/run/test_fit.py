"""A fit leaves a whole record, can be stopped at any moment, and goes on as if nothing had happened."""

import csv
import errno
import json
import os
import signal
from pathlib import Path

import background
import numpy as np
import pytest
import torch

from losslab.cli import main
from losslab.metrics import metric_keys
from losslab.run import RunFolder, find_run, read_predictions

DIGITS = tuple("0123456789")


def only_run(name: str) -> RunFolder:
    (folder,) = Path("runs", name).iterdir()
    return RunFolder(folder)


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics_file.open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(folder.checkpoint("last"), weights_only=True)["state_dict"]


def same_weights(a: RunFolder, b: RunFolder) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "experiment", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_experiment_fits_and_tests(experiment: Path) -> None:
    options = [
        "--data",
        "tiny_digits.TinyDigits",
        "--trainer.max_epochs",
        "2",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert main(["fit", "--config", str(experiment), *options]) == 0
    folder = only_run(experiment.stem)
    assert main(["test", "--run", f"runs/{experiment.stem}"]) == 0

    last = rows(folder)[-1]
    assert [row["epoch"] for row in rows(folder)] == ["0", "1"]
    keys = ["train/loss", "train/acc_running", "val/loss", *(f"val/{key}" for key in metric_keys(DIGITS))]
    keys += [] if folder.config()["model"]["init_args"]["evaluate_train"] == "never" else ["train/acc"]
    assert all(np.isfinite(float(last[key])) for key in keys)
    metrics = json.loads((folder.path / "test" / "metrics.json").read_text())["metrics"]
    assert set(metrics) == {"test/loss", *(f"test/{key}" for key in metric_keys(DIGITS))}
    assert all(np.isfinite(value) for value in metrics.values())

    for which in ("best", "last"):
        assert torch.load(folder.checkpoint(which), weights_only=True)["state_dict"]
    logits, labels = read_predictions(folder.predictions_file)
    assert logits.shape == (50, 10)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(float(last["val/acc"]))
    assert read_predictions(folder.path / "test" / "predictions.npz")[1].shape == (50,)
    manifest = folder.manifest()
    assert manifest["status"] == "finished"
    assert manifest["data_name"] == "tiny-digits"
    assert {"train", "split", "config"} <= set(manifest["hashes"])
    assert {"git_commit", "git_dirty", "versions", "seed", "device", "precision", "seconds"} <= set(manifest)


def test_each_read_of_the_test_images_is_noted(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    assert main(["validate", "--run", "runs/tiny"]) == 0
    assert not Path("runs/test_reads.jsonl").exists()
    assert main(["test", "--run", "runs/tiny"]) == main(["test", "--run", "runs/tiny"]) == 0
    reads = [json.loads(line) for line in Path("runs/test_reads.jsonl").read_text().splitlines()]
    assert len(reads) == 2
    assert {"at", "config_hash", "git_commit"} <= set(reads[0])


def test_same_seed_same_weights_and_another_seed_others(tiny_mlp: list[str]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["fit", *tiny_mlp, "--name", name, "--seed_everything", str(seed)]) == 0
    assert same_weights(only_run("a"), only_run("b"))
    assert not same_weights(only_run("a"), only_run("c"))
    assert rows(only_run("a")) == rows(only_run("b"))


@pytest.mark.parametrize("moment", ["kill -9", "Ctrl-C", "SIGTERM"])
def test_a_stopped_fit_goes_on_to_the_same_end(tiny_mlp: list[str], own_folder: Path, moment: str) -> None:
    number = {"kill -9": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}[moment]
    longer = [*tiny_mlp, "--trainer.max_epochs", "15"]
    assert main(["fit", *longer, "--name", "undisturbed"]) == 0

    process = background.start(own_folder, ["fit", *longer])
    stopped_at = list(Path("runs").glob("tiny/*/checkpoints/last.ckpt"))
    background.wait_for(lambda: bool(list(Path("runs").glob("tiny/*/checkpoints/last.ckpt"))), process)
    assert stopped_at == []
    exit_code = background.stop(process, number)
    assert exit_code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    folder = only_run("tiny")
    before = rows(folder)
    assert len(before) < 15
    assert folder.manifest()["status"] == ("running" if number == signal.SIGKILL else "interrupted")
    config = folder.config_file.read_bytes()

    assert main(["fit", *longer, "--ckpt_path", "last"]) == 0
    assert len(list(Path("runs/tiny").iterdir())) == 1
    assert folder.manifest()["status"] == "finished"
    assert [row["epoch"] for row in rows(folder)] == [str(epoch) for epoch in range(15)]
    assert rows(folder)[: len(before)] == before
    assert rows(folder) == rows(only_run("undisturbed"))
    assert same_weights(folder, only_run("undisturbed"))
    assert folder.config_file.read_bytes() == config

    fitted = content(folder.path)
    for command in ("test", "validate", "predict"):
        assert main([command, "--run", str(folder.path)]) == 0
    assert main(["fit", *longer, "--ckpt_path", "last"]) == 0  # finished already: nothing to do
    afterwards = content(folder.path)
    assert {name: afterwards[name] for name in fitted} == fitted
    assert {name.split("/")[0] for name in set(afterwards) - set(fitted)} == {"test", "validate", "predict"}


@pytest.mark.parametrize(
    ("number", "precision"), [(signal.SIGINT, "32-true"), (signal.SIGTERM, "64-true"), (signal.SIGTERM, "bf16-mixed")]
)
def test_a_stop_in_the_middle_of_an_epoch_loses_no_batch(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, precision: str
) -> None:
    tiny_mlp = [*tiny_mlp, "--trainer.precision", precision]
    from losslab.run import Interruption

    assert main(["fit", *tiny_mlp, "--name", "undisturbed"]) == 0
    finish_batch = Interruption.on_train_batch_end

    def signal_at_step_13(self: Interruption, trainer, *arguments) -> None:
        if trainer.global_step == 13:  # ten steps an epoch
            os.kill(os.getpid(), number)
        finish_batch(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_train_batch_end", signal_at_step_13)
        assert main(["fit", *tiny_mlp]) == 128 + number
    folder = only_run("tiny")
    assert torch.load(folder.checkpoint("last"), weights_only=True)["global_step"] == 13
    assert len(rows(folder)) == 1
    assert main(["fit", "--run", "runs/tiny"]) == 0
    assert rows(folder) == rows(only_run("undisturbed"))
    assert same_weights(folder, only_run("undisturbed"))


def test_a_run_stopped_behind_its_last_epoch_is_finished_by_a_validation(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    folder = only_run("tiny")
    (logits, _), table = read_predictions(folder.predictions_file), folder.metrics_file.read_bytes()
    folder.predictions_file.unlink()
    folder.write_manifest(folder.manifest() | {"status": "interrupted"})
    assert main(["fit", *tiny_mlp, "--ckpt_path", "last"]) == 0
    assert folder.manifest()["status"] == "finished"
    assert folder.metrics_file.read_bytes() == table
    assert np.array_equal(logits, read_predictions(folder.predictions_file)[0])


def test_a_fit_is_not_continued_on_other_images(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    folder = only_run("tiny")
    folder.write_manifest(folder.manifest() | {"status": "interrupted", "data_name": "mnist"})
    assert main(["fit", *tiny_mlp, "--ckpt_path", "last"]) == 2
    assert "was trained on mnist, and these are other images (tiny-digits)" in capsys.readouterr().err


def test_no_epoch_at_all_is_refused(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.max_epochs", "0"]) == 2
    assert "trainer.max_epochs must be >= 1, or -1 for no limit, got 0." in capsys.readouterr().err


def test_a_fit_that_differs_is_not_continued(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    checkpoint = str(only_run("tiny").checkpoint("last"))
    for where in ("last", checkpoint):
        assert main(["fit", *tiny_mlp, "--ckpt_path", where, "--model.loss.gamma", "3"]) == 2
        assert "model.init_args.loss.init_args.gamma: 1.5 -> 3.0" in capsys.readouterr().err
    assert main(["fit", *tiny_mlp, "--ckpt_path", "last", "--model", "CNN"]) == 2
    assert "model.class_path: losslab.models.MLP -> losslab.models.CNN" in capsys.readouterr().err
    assert main(["fit", *tiny_mlp, "--ckpt_path", "elsewhere.ckpt"]) == 2
    assert "ckpt_path of a fit must be 'last'" in capsys.readouterr().err


def test_a_loss_that_becomes_nan_is_named_and_keeps_what_was_done(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "nan_loss.py").write_text(
        "import torch\n"
        "class NaNFromStep12(torch.nn.Module):\n"
        "    steps = 0\n"
        "    def forward(self, logits, target):\n"
        "        self.steps += self.training\n"
        "        return logits.sum() * (float('nan') if self.steps > 12 else 1.0)\n"
    )
    assert main(["fit", *tiny_mlp, "--model.loss", "nan_loss.NaNFromStep12"]) == 1
    message = capsys.readouterr().err
    assert "NaNFromStep12() became nan in epoch 1, step 2" in message
    folder = only_run("tiny")
    assert len(rows(folder)) == 1
    assert folder.manifest()["status"] == "failed"
    assert "epoch 1, step 2" in folder.manifest()["failure"]
    assert all(value.isfinite().all() for value in weights(folder).values())


def test_a_full_disk_is_told_in_one_line_and_the_fit_goes_on_later(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synchronise, saved = os.fsync, []

    def full_after_the_first_epoch(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        if name.startswith(".last.ckpt") and saved:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.extend([name] if name.startswith(".last.ckpt") else [])
        synchronise(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_the_first_epoch)
        assert main(["fit", *tiny_mlp]) == 1
    error = capsys.readouterr().err
    assert error == "losslab fit: error: No space left on device; finished work is on disk\n"
    assert saved
    folder = only_run("tiny")
    assert folder.manifest()["status"] == "failed"
    assert main(["fit", *tiny_mlp, "--ckpt_path", "last"]) == 0
    assert [row["epoch"] for row in rows(folder)] == ["0", "1"]
    assert folder.manifest()["status"] == "finished"


def test_a_run_folder_that_cannot_be_written(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("a file where the folder should be")
    assert main(["fit", *tiny_mlp]) == 2
    assert "cannot write the run folder runs/tiny/" in capsys.readouterr().err


def test_nothing_is_written_when_the_data_are_unfit(tiny_mlp: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *tiny_mlp, "--data.val_size", "249"]) == 2
    assert "data.val_size must be in 10..240" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_find_run_takes_the_newest_finished(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    finished = only_run("tiny")
    newer = RunFolder.create(Path("runs/tiny/29990101T000000-abcdef"), finished.config())
    newer.write_manifest({"status": "interrupted"})
    assert find_run("runs/tiny", finished=True).path == finished.path
    assert find_run("runs/tiny", finished=False).path == newer.path
    assert find_run(newer.path, finished=True).path == newer.path


@pytest.mark.slow
def test_the_cnn_is_above_99_2_percent_within_three_epochs(real_mnist: Path, repository: Path) -> None:
    experiment = str(repository / "experiments" / "cnn.yaml")
    assert main(["fit", "--config", experiment, "--data.root", str(real_mnist)]) == 0
    last = rows(only_run("cnn"))[-1]
    assert last["epoch"] == "2"
    assert float(last["val/acc"]) >= 0.992
