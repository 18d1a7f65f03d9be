"""Folders that losslab 0.1.0 wrote at commit 85f406f are read, and continued, by later versions.

tests/kept holds a finished run with its test, and a finished study of two losses at two seeds without checkpoints.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from losslab.cli import main
from losslab.run import CommandLine, find_run, read_checkpoint, read_predictions

KEPT = Path(__file__).parent / "kept"
STUDY = Path("runs/study")
THEN = ("--data.split_seed", "0")
"""The default of that version, under which all seeds shared one split."""


@pytest.fixture(autouse=True)
def kept_folder(own_folder: Path) -> None:
    shutil.copytree(KEPT, own_folder, dirs_exist_ok=True)


def results() -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(STUDY.glob("results/*/*.json"))}


def test_a_checkpoint_is_tested_with_the_numbers_of_then() -> None:
    run = find_run("runs/mlp", finished=True)
    before = json.loads((run.path / "test" / "metrics.json").read_text())["metrics"]
    logits, labels = read_predictions(run.path / "test" / "predictions.npz")
    assert main(["test", "--run", "runs/mlp"]) == 0
    after = json.loads((run.path / "test" / "metrics.json").read_text())["metrics"]
    assert after == pytest.approx(before, abs=1e-6)
    again = read_predictions(run.path / "test" / "predictions.npz")
    np.testing.assert_allclose(again[0], logits, atol=1e-5)
    assert (again[1] == labels).all()


def test_a_fit_of_the_same_experiment_has_the_same_identity_and_the_same_epochs() -> None:
    run = find_run("runs/mlp", finished=True)
    assert main(["fit", "--config", "tiny.yaml", "--name", "again", *THEN]) == 0
    again = find_run("runs/again", finished=True)
    config = again.config()
    assert config["model"]["init_args"].pop("lr_interval") is None  # which that version did not have
    assert config["data"]["init_args"].pop("validation") == "balanced"
    assert config == run.config()
    assert again.path.name.split("-")[1] == run.path.name.split("-")[1]
    assert [{key: float(value or "nan") for key, value in row.items()} for row in again.epochs()] == [
        pytest.approx({key: float(value or "nan") for key, value in row.items()}, abs=1e-5, nan_ok=True)
        for row in run.epochs()
    ]
    arguments = [read_checkpoint(each.checkpoint("last"))["hyper_parameters"] for each in (run, again)]
    assert arguments[0] | {"lr_interval": None} == arguments[1]


def test_a_finished_study_is_reported_with_the_numbers_of_then_and_nothing_is_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, summary = results(), (STUDY / "summary.csv").read_bytes()
    assert main(["sweep", "--config", "study.yaml", *THEN]) == 0
    assert "4 trainings, 4 of them done" in capsys.readouterr().out
    assert results() == before
    assert (STUDY / "summary.csv").read_bytes() == summary
    assert "cross-entropy" in (STUDY / "report.md").read_text()


def test_each_seed_of_then_has_the_split_of_then() -> None:
    """The configurations of then have `split_seed: 0` written out, which still means one split for all seeds."""
    for run in sorted(STUDY.glob("runs/32*/seed-*")):
        data = CommandLine(["--config", str(run / "config.yaml")], "losslab report", recorded=True).build().data
        data.setup("fit")
        assert data.hashes.items() <= json.loads((run / "manifest.json").read_text())["hashes"].items(), run


def test_a_missing_result_is_trained_again_to_the_same_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    before = results()
    (missing, *_) = before
    Path(missing).unlink()
    (STUDY / "journal.log").unlink()  # as on another machine; with it, the trial counts as done
    assert main(["sweep", "--config", "study.yaml", *THEN]) == 0
    assert "4 trainings, 3 of them done" in capsys.readouterr().out
    after = results()
    assert {file: content for file, content in after.items() if file != missing} == {
        file: content for file, content in before.items() if file != missing
    }
    assert json.loads(after[missing])["metrics"] == pytest.approx(json.loads(before[missing])["metrics"], abs=1e-5)


@pytest.mark.parametrize("lines", [9, 14], ids=["waiting", "begun by a process that is gone"])
def test_a_trial_of_then_with_all_its_seeds_is_finished_as_one_and_no_training_is_done_twice(
    lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its second trial, of the focal loss, has trained the first seed."""
    before, journal = results(), STUDY / "journal.log"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:lines]))
    (missing,) = (f for f in before if f.endswith("/1.json") and json.loads(before[f])["label"] == "focal")
    Path(missing).unlink()
    assert main(["sweep", "--config", "study.yaml", *THEN]) == 0
    printed = capsys.readouterr().out
    assert "2 settings x 2 seeds = 4 trainings, 3 of them done" in printed
    assert [line.split(":")[0] for line in printed.splitlines() if ": val/f1/macro " in line] == ["focal seed=1"]
    after = results()
    assert json.loads(after.pop(missing))["metrics"] == pytest.approx(
        json.loads(before.pop(missing))["metrics"], abs=1e-5
    )
    assert after == before
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="study", storage=storage).trials
    assert [trial.params for trial in trials if trial.state == TrialState.COMPLETE] == [
        {"arm": "cross-entropy"},
        {"arm": "focal"},
    ]
    assert len(trials) == 2 + (lines > 9)  # that of the process that is gone was queued again
