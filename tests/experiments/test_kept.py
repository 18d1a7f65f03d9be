"""A kept file has the study's numbers, and a study goes on from it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from results.kept import Kept, describe_difference, keep, kept_file, read_kept, restore
from results.measures import CONFIDENCE, ECE_PSI, ensemble_accuracy
from results.summaries import KeptStudy

from losslab.cli import main
from losslab.errors import UserError
from losslab.report import TEST_FOLDER, read_confirmation, summarise_folder
from losslab.run import RunFolder, write_predictions
from losslab.study import read_results

NAME = "focal-balanced"


def test_kept_numbers_are_the_studys(finished: Path, study: KeptStudy) -> None:
    told = read_confirmation(finished / "runs" / NAME / "confirm")
    kept = study.newest
    assert told is not None
    assert kept is not None
    assert (kept.reads, kept.second_reads, kept.whole) == (told.reads, told.second_reads, told.whole) == (4, 0, True)
    assert kept.summary.family is not None
    assert told.summary.family is not None
    for ours, theirs in zip(kept.summary.family.verdicts, told.summary.family.verdicts, strict=True):
        assert ours.metric == theirs.metric
        assert ours.word == theirs.word
        assert ours.mean == pytest.approx(theirs.mean, abs=2e-6)
    searched, _ = summarise_folder(finished / "runs" / NAME)
    assert [s.setting_hash for s in study.search.settings] == [s.setting_hash for s in searched.settings]


def test_a_kept_file_has_what_each_seed_chose_and_counts_each_training_once(finished: Path, study: KeptStudy) -> None:
    told = read_confirmation(finished / "runs" / NAME / "confirm")
    assert told is not None
    assert study.newest is not None
    trained = read_results(finished / "runs" / NAME)
    assert len(study.kept.trainings) == len(trained)
    assert len(study.kept.results) == len(trained) + 4
    for kept, ours in zip(study.search.settings, told.summary.settings, strict=True):
        assert kept.choices == ours.choices == study.newest.summary.settings[ours.label == "focal"].choices
        assert len(*kept.choices.values()) == 2
    assert study.newest.summary.family is not None
    assert told.summary.family is not None
    spread = told.summary.family.images
    assert len(spread) == 5
    assert study.newest.summary.family.images == {key: pytest.approx(value, abs=1e-6) for key, value in spread.items()}


def test_what_all_results_have_in_common_is_written_once(finished: Path) -> None:
    file = kept_file(finished / "kept", NAME)
    header, *lines = map(json.loads, file.read_text().splitlines())
    kept = read_kept(file)
    assert kept is not None
    assert header["same"]["device"] == "cpu"
    assert not any("device" in line for line in lines)
    assert all(result["device"] == "cpu" for result in kept.results)


def test_confidence_and_the_ece_after_psi_are_measured_from_the_predictions(study: KeptStudy) -> None:
    for result in study.kept.stage_results("confirm"):
        assert 0.1 < result["metrics"][CONFIDENCE] <= 1
        assert (ECE_PSI in result["metrics"]) == result["label"].startswith("focal")
        assert result["parameters"] == 784 * 16 + 16 + 16 * 10 + 10


def test_an_ensemble_is_right_where_the_mean_of_the_probabilities_is(own_folder: Path) -> None:
    """Two images of class 0: the first run is sure and right of both, the second one wrong, and sure of one only."""
    labels = torch.tensor([0, 0])
    for name, logits in {"a": [[2.0, 0.0], [2.0, 0.0]], "b": [[0.0, 9.0], [0.0, 0.5]]}.items():
        (own_folder / name / "test").mkdir(parents=True)
        write_predictions(own_folder / name / "test" / "predictions.npz", (torch.tensor(logits), labels))
    runs = [RunFolder(own_folder / name) for name in ("a", "b")]
    assert [ensemble_accuracy([run]) for run in runs] == [1.0, 0.0]
    assert ensemble_accuracy(runs) == ensemble_accuracy(runs[::-1]) == 0.5
    assert ensemble_accuracy([*runs, RunFolder(own_folder / "gone")]) is None


@pytest.mark.slow
def test_restored_in_another_folder_nothing_is_trained_or_read_again(
    finished: Path, own_folder: Path, sweep_command: list[str], confirm_command: list[str]
) -> None:
    for file in ("study.yaml", "tiny.yaml"):
        shutil.copy(finished / file, own_folder)
    file = kept_file(finished / "kept", NAME)
    kept = read_kept(file)
    assert kept is not None
    study = Path("runs") / NAME
    assert restore(file, study) == len(kept.results) + len(kept.stage_results("confirm"))
    assert restore(file, study) == 0
    assert main(sweep_command) == 0
    assert main(confirm_command) == 0
    assert not list(study.rglob("metrics.csv"))
    assert not Path("runs/test_reads.jsonl").exists()
    assert len(read_results(study / "confirm" / TEST_FOLDER)) == 4
    again = keep(study, Path("kept"))
    assert [r["metrics"] for r in again.results] == [r["metrics"] for r in kept.results]
    assert again.results == kept.results


def test_after_a_loss_only_what_is_missing_is_trained(copied: Path, sweep_command: list[str]) -> None:
    lines = Path(f"kept/{NAME}.jsonl").read_text().splitlines(keepends=True)
    gone = next(line for line in lines[1:] if json.loads(line)["stage"] == "search")
    Path(f"kept/{NAME}.jsonl").write_text("".join(line for line in lines if line != gone))
    shutil.rmtree("runs")
    restore(Path(f"kept/{NAME}.jsonl"), copied)
    assert main(sweep_command) == 0
    assert len(list(copied.rglob("metrics.csv"))) == 1
    keep(copied, Path("kept"))
    merged, missing = read_kept(Path(f"kept/{NAME}.jsonl")), json.loads(gone)
    assert merged is not None
    assert len(merged.results) == len(lines) - 1
    assert missing["metrics"] in [result["metrics"] for result in merged.results]


@pytest.mark.slow
def test_of_a_seed_that_was_not_tested_the_chosen_value_is_trained_again_and_read_once(
    copied: Path, sweep_command: list[str], confirm_command: list[str]
) -> None:
    file = Path(f"kept/{NAME}.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    gone = next(line for line in lines[1:] if json.loads(line)["stage"] == "confirm" and json.loads(line)["seed"] == 1)
    file.write_text("".join(line for line in lines if line != gone))
    untested = json.loads(gone)
    shutil.rmtree("runs")
    restore(file, copied)
    assert main(sweep_command) == 0
    (trained,) = copied.rglob("metrics.csv")
    assert trained.parent.name == "seed-1"
    assert main(confirm_command) == 0
    (read,) = map(json.loads, Path("runs/test_reads.jsonl").read_text().splitlines())
    assert read["run"].endswith("seed-1")
    again = next(r for r in keep(copied, Path("kept")).stage_results("confirm") if r["seed"] == 1)
    assert (again["tuned"], again["metrics"]) == (untested["tuned"], untested["metrics"])


def test_a_run_that_is_gone_is_told_before_any_read(
    copied: Path, confirm_command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "confirm")
    Path("runs/test_reads.jsonl").unlink()
    shutil.rmtree(next((copied / "runs").rglob("checkpoints")))
    for folder in (copied / "runs").glob("*/seed-1"):
        shutil.rmtree(folder)
    assert main(confirm_command) == 2
    message = capsys.readouterr().err
    assert "which is to be tested, is gone" in message
    assert "--seeds 12" in message
    assert not Path("runs/test_reads.jsonl").exists()


def test_keeping_loses_no_result_and_no_measurement(copied: Path) -> None:
    before = Path(f"kept/{NAME}.jsonl").read_bytes()
    shutil.rmtree(copied / "runs")  # the predictions are gone
    keep(copied, Path("kept"))
    assert Path(f"kept/{NAME}.jsonl").read_bytes() == before
    shutil.rmtree(copied / "confirm")
    next(iter((copied / "results").glob("*/*.json"))).unlink()
    keep(copied, Path("kept"))
    assert Path(f"kept/{NAME}.jsonl").read_bytes() == before


def test_what_is_run_again_is_compared_with_what_was_kept(
    copied: Path, sweep_command: list[str], confirm_command: list[str]
) -> None:
    file = Path(f"kept/{NAME}.jsonl")
    former = read_kept(file)
    assert former is not None
    assert describe_difference(None, former) == "none of them was kept before and run again"
    assert describe_difference(former, keep(copied, Path("kept"))) == "none of them was kept before and run again"
    without_start = [{key: value for key, value in line.items() if key != "started_at"} for line in former.results]
    by_a_former_version = Kept(former.header, without_start)
    assert describe_difference(by_a_former_version, former) == "none of them was kept before and run again"
    shutil.rmtree(copied)
    assert main(sweep_command) == 0
    assert main([*confirm_command, "--again"]) == 0
    again = keep(copied, Path("kept"))
    for line, before in zip(again.results, former.results, strict=True):
        line["seconds"] = before["seconds"]  # short trainings often take the same milliseconds
    assert (
        describe_difference(former, again)
        == f"{len(again.results)} of them were kept before and run again: no metric differs"
    )
    again.results[0]["metrics"]["val/f1/macro"] += 0.25
    assert "val/f1/macro differs most, by up to 0.25" in describe_difference(former, again)


def test_another_study_of_the_same_name_is_refused(copied: Path) -> None:
    record = json.loads((copied / "study.json").read_text())
    record["experiment"]["trainer"]["max_epochs"] = 3
    (copied / "study.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="holds another study"):
        keep(copied, Path("kept"))
