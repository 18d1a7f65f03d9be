"""A run's folder is made once, and its files are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from losslab.errors import UserError
from losslab.run.run_folder import RunFolder, find_run, new_run_path, write_whole


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
