"""A checkpoint is whole or not there, says what it was trained as, and is read without running anything."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from losslab.cli import main
from losslab.errors import UserError
from losslab.run import RunFolder, find_run, read_checkpoint
from losslab.run.callbacks import CheckpointFiles, EpochCheckpoints, Records, write_epochs


@pytest.fixture
def run(tiny_mlp: list[str]) -> Path:
    assert main(["fit", *tiny_mlp]) == 0
    return find_run("runs/tiny", finished=True).path


def stopped(run: Path) -> None:
    """As if the fit had been stopped, so that it can be continued."""
    manifest = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(manifest.replace('"finished"', '"interrupted"'))


class Trap:
    """An object that, unpickled, makes a file."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("trapped",)


def spoil(checkpoint: Path, how: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    if how == "code":
        torch.save({**content, "extra": Trap()}, checkpoint)
    elif how == "bare pickle":
        checkpoint.write_bytes(pickle.dumps(Trap()))
    elif how == "weights alone":
        torch.save(content["state_dict"], checkpoint)
    elif how == "a list":
        torch.save([1, 2], checkpoint)
    elif how == "text":
        checkpoint.write_text("no checkpoint")
    elif how == "empty":
        checkpoint.write_bytes(b"")
    elif how == "other weights":
        content["state_dict"]["network.1.weight"] = torch.zeros(3, 3)
        torch.save(content, checkpoint)
    elif how == "other loss":
        content["config"]["model"]["init_args"]["loss"]["init_args"]["gamma"] = 4.0
        torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("code", "last.ckpt is no checkpoint of plain values"),
        ("bare pickle", "last.ckpt is no checkpoint of plain values"),
        ("weights alone", "last.ckpt is no checkpoint of a losslab run"),
        ("a list", "last.ckpt is no checkpoint of a losslab run"),
        ("text", "last.ckpt is no checkpoint of plain values"),
        ("empty", "last.ckpt is truncated or damaged"),
        ("other weights", "last.ckpt do not fit the network: size mismatch for network.1.weight"),
        ("other loss", "written under another configuration: model.init_args.loss.init_args.gamma: 4.0 -> 1.5"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_of_the_run_is_told_in_one_line(
    run: Path, how: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run / "checkpoints" / "last.ckpt", how)
    stopped(run)
    commands = (["test"], ["validate"], ["predict"], ["export"], ["predict", "--images", "x.png"], ["fit"])
    for command in commands if how in ("code", "weights alone") else (["test"], ["fit"]):
        capsys.readouterr()
        assert main([*command, "--run", str(run)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not Path("trapped").exists()


def test_last_is_of_the_last_epoch_and_best_of_the_best_one_also_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    class Recorder:
        current_epoch, max_epochs, max_steps, global_step, should_stop, sanity_checking = 0, 9, -1, 10, False, False
        state = SimpleNamespace(fn="fit")

        def __init__(self, score: float) -> None:
            self.callback_metrics = {"val/f1/macro": torch.tensor(score)}
            self.saved: list[str] = []

        def save_checkpoint(self, path: Path) -> None:
            self.saved.append(path.name)

    def saved_after(checkpoints: EpochCheckpoints, score: float) -> list[str]:
        trainer = Recorder(score)
        checkpoints.on_validation_end(trainer, None)  # type: ignore[arg-type]
        checkpoints.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        return trainer.saved

    checkpoints = EpochCheckpoints(RunFolder(tmp_path / "here"))
    assert [saved_after(checkpoints, score) for score in (0.0, 0.9, 0.7)] == [
        ["best.ckpt", "last.ckpt"],
        ["best.ckpt", "last.ckpt"],
        ["last.ckpt"],
    ]
    moved = EpochCheckpoints(RunFolder(tmp_path / "there"))
    moved.load_state_dict(checkpoints.state_dict())
    assert saved_after(moved, 0.8) == ["last.ckpt"]


def test_a_truncated_checkpoint_is_told_wherever_it_ends(run: Path) -> None:
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    cut = run / "checkpoints" / "cut.ckpt"
    for length in (*range(0, len(whole), len(whole) // 60), len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.ckpt"):
            read_checkpoint(cut)


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = CheckpointFiles({"a": 1}), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, path)
    former = path.read_bytes()

    def break_off(descriptor: int) -> None:
        os.truncate(descriptor, 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", break_off)
    with pytest.raises(KeyboardInterrupt):
        files.save_checkpoint({"state_dict": {"weight": torch.zeros(2)}}, path)
    assert path.read_bytes() == former
    assert read_checkpoint(path)["config"] == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_tensor_that_is_part_of_a_larger_tensor_is_saved_alone(tmp_path: Path) -> None:
    """In the weights and in a callback's state, with torch's versions of the weights."""
    files, path = CheckpointFiles({"a": 1}), tmp_path / "last.ckpt"
    weights = torch.nn.BatchNorm1d(4).state_dict()
    large = torch.arange(100_000.0).view(100, 1000)
    weights["weight"] = large[3]
    files.save_checkpoint({"state_dict": weights, "callbacks": {"average": {"of": [large[:, 5]]}}}, path)
    assert path.stat().st_size < 10_000
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["state_dict"]["weight"], large[3])
    assert torch.equal(saved["callbacks"]["average"]["of"][0], large[:, 5])
    assert saved["state_dict"]._metadata == weights._metadata


def test_the_last_row_is_completed_although_another_process_wrote_it(own_folder: Path) -> None:
    folder = RunFolder.create(Path("runs/tiny/1"), {"a": 1})
    write_epochs(folder.metrics_file, [{"epoch": 0, "step": 4, "val/loss": "1"}])
    Records(folder).complete({"val/loss": 2.0})
    (row,) = folder.epochs()
    assert (row["epoch"], row["val/loss"]) == ("0", "2")
