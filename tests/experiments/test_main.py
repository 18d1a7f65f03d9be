"""`python -m experiments.results`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from results.__main__ import main as run_command


def test_a_study_is_kept_and_restored_by_name(
    copied: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("results.__main__.ROOT", own_folder)
    monkeypatch.setattr("results.__main__.KEPT", own_folder / "new")
    lines = len(Path("kept/focal-balanced.jsonl").read_text().splitlines()) - 1
    assert run_command(["keep", str(copied)]) == 0
    assert capsys.readouterr().out == (
        f"new/focal-balanced.jsonl: {lines} results; none of them was kept before and run again\n"
    )
    assert Path("new/focal-balanced.jsonl").read_bytes() == Path("kept/focal-balanced.jsonl").read_bytes()
    shutil.rmtree("runs")
    assert run_command(["restore", "focal-balanced"]) == 0
    tested = 4  # each of them is put back twice, with and without its test metrics
    assert capsys.readouterr().out == f"runs/focal-balanced: {lines + tested} result files put back\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep", "runs/none"], "no study.json"),
        (["restore", "none"], "there is no"),
        (["kep", "runs/none"], "give nothing, keep runs/NAME or restore NAME, got 'kep runs/none'"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_it_is_called_in_the_repositorys_folder(repository: Path) -> None:
    command = [sys.executable, "-m", "experiments.results", "restore", "none"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("results: error: there is no ")
