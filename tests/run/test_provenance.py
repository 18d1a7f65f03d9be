"""Every look at the test images is counted, and found again."""

import json
from pathlib import Path

import pytest

from losslab.cli import main
from losslab.run import RunFolder, config_hash, earlier_reads
from losslab.run.provenance import note_test_read

CONFIG = {"seed_everything": 1, "model": {"class_path": "MLP"}}


def test_a_read_is_found_by_its_configuration_and_data() -> None:
    assert earlier_reads({config_hash(CONFIG)}, "pets") == []
    note_test_read(CONFIG, "pets", Path("runs/a"))
    note_test_read({**CONFIG, "seed_everything": 2}, "pets", Path("runs/b"))
    (read,) = earlier_reads({config_hash(CONFIG)}, "pets")
    assert read["run"] == "runs/a"
    assert earlier_reads({config_hash(CONFIG)}, "other pets") == []


def test_a_half_written_line_hides_no_other() -> None:
    note_test_read(CONFIG, "pets", Path("runs/a"))
    file = Path("runs/test_reads.jsonl")
    file.write_text(file.read_text() + '{"at": "2026-')
    note_test_read(CONFIG, "pets", Path("runs/b"))
    assert [read["run"] for read in earlier_reads({config_hash(CONFIG)}, "pets")] == ["runs/a", "runs/b"]
    assert len(file.read_text().splitlines()) == 3


def test_a_read_that_cannot_be_noted_is_refused(capsys: pytest.CaptureFixture[str], tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    Path("runs/test_reads.jsonl").mkdir()
    assert main(["test", "--run", "runs/tiny"]) == 2
    assert "cannot write runs/test_reads.jsonl: " in capsys.readouterr().err
    assert not list(Path("runs/tiny").glob("*/test"))


def test_where_a_run_is_tested_does_not_hide_that_it_was(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp]) == 0
    assert main(["test", "--run", "runs/tiny"]) == 0
    assert main(["test", "--run", "runs/tiny", "--trainer.accelerator", "auto"]) == 0
    (run,) = Path("runs/tiny").iterdir()
    assert len(earlier_reads({config_hash(RunFolder(run).config())}, "tiny-digits")) == 2
    assert len(json.loads(Path("runs/test_reads.jsonl").read_text().splitlines()[0])["config_hash"]) == 64
