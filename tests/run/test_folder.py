"""A run's folder is made once, and its files are whole or not there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.errors import UserError
from losslab.run import RunFolder, find_run, new_run_path, read_predictions, write_predictions, write_whole


def test_a_second_run_does_not_share_a_folder(own_folder: Path) -> None:
    path = new_run_path("cnn", {"a": 1})
    assert path.parent == Path("runs/cnn")
    RunFolder.create(path, {"a": 1})
    with pytest.raises(UserError, match="exists already; give another --name"):
        RunFolder.create(path, {"a": 1})
    assert RunFolder(path).config() == {"a": 1}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.json"
    write_whole(file, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, "new")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_manifest_that_is_not_whole_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.manifest() == {}
    folder.manifest_file.write_text('{"status": "finis')
    assert folder.manifest() == {}
    folder.write_manifest({"status": "finished"})
    assert folder.manifest() == {"status": "finished"}


def test_no_run_names_the_folders_that_there_are(own_folder: Path) -> None:
    RunFolder.create(Path("runs/cnn/1"), {"a": 1})
    with pytest.raises(UserError, match=r"there is 1 run\(s\), none of them finished in runs/cnn"):
        find_run("runs/cnn", finished=True)
    with pytest.raises(UserError, match=r"no run in runs/mlp. Runs are in: runs/cnn"):
        find_run("runs/mlp", finished=True)


def test_a_run_that_was_cut_short_is_neither_the_newest_finished_one_nor_one_to_continue(own_folder: Path) -> None:
    for name, status in (("1", "finished"), ("2", "interrupted"), ("3", "partial"), ("4", "finished")):
        RunFolder.create(Path("runs/cnn", name), {"a": 1}).write_manifest({"status": status})
    assert find_run("runs/cnn", finished=False).path.name == "2"
    RunFolder(Path("runs/cnn/4")).write_manifest({"status": "partial", "partial_reason": "fast_dev_run"})
    assert find_run("runs/cnn", finished=True).path.name == "1"


def test_logits_and_labels_come_back_as_float32_and_int64() -> None:
    logits, labels = torch.randn(7, 3, dtype=torch.bfloat16), torch.arange(7) % 3
    write_predictions(Path("predictions.npz"), (logits, labels))
    again, labels_again = read_predictions(Path("predictions.npz"))
    assert (again.dtype, labels_again.dtype) == (np.float32, np.int64)
    assert np.array_equal(again, logits.float().numpy())
    assert np.array_equal(labels_again, labels.numpy())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_not_whole_is_named(share: float) -> None:
    path = Path("predictions.npz")
    write_predictions(path, (torch.randn(7, 3), torch.arange(7) % 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"predictions\.npz does not hold a split's logits and labels"):
        read_predictions(path)


def test_a_file_of_something_else_is_named() -> None:
    np.savez("predictions.npz", logits=np.zeros((7, 3)))
    with pytest.raises(ValueError, match="does not hold a split's logits"):
        read_predictions(Path("predictions.npz"))
    with pytest.raises(FileNotFoundError):
        read_predictions(Path("nothing.npz"))
