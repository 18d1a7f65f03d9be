"""A result is written once, whole or not at all."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from losslab.report.results import read_result, read_results, result_path, write_result


def result(seed: int, label: str = "a", order: int = 0) -> dict:
    return {"label": label, "order": order, "seed": seed, "setting_hash": label, "metrics": {"val/acc": seed / 10}}


def test_the_second_writer_fails_and_changes_nothing(tmp_path: Path) -> None:
    path = result_path(tmp_path, "a", 1)
    assert write_result(path, result(1))
    first = path.read_bytes()
    assert not write_result(path, result(2))
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["1.json"]


def test_of_many_writers_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(1000))
    monkeypatch.setattr("os.getpid", lambda: next(numbers))  # each thread stands for a process
    path = result_path(tmp_path, "a", 1)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda seed: write_result(path, result(seed)), range(40)))
    assert sum(won) == 1
    assert json.loads(path.read_text())["seed"] == won.index(True)


def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    path = result_path(tmp_path, "a", 1)
    assert write_result(path, result(1))
    assert not write_result(path, result(2))
    assert read_result(path) == result(1)
    assert os.listdir(path.parent) == ["1.json"]


def test_what_is_not_whole_is_no_result(tmp_path: Path) -> None:
    path = result_path(tmp_path, "a", 1)
    write_result(path, result(1))
    path.write_text(path.read_text()[:-5])
    assert read_result(path) is None
    assert read_result(tmp_path / "nowhere.json") is None
    write_result(result_path(tmp_path, "b", 0), result(0, "b", order=1))
    write_result(result_path(tmp_path, "c", 3), result(3, "c", order=0))
    write_result(result_path(tmp_path, "c", 2), result(2, "c", order=0))
    assert [(r["label"], r["seed"]) for r in read_results(tmp_path)] == [("c", 2), ("c", 3), ("b", 0)]
