"""Kept records and what is written from them: the committed pages are theirs, and a study goes on from them."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import findings
import pytest
import results
import small_studies
import torch
from kept import Kept, keep, kept_file, read_kept, restore
from kept_difference import kept_difference
from kept_study import KeptStudy, read_kept_study
from losses_picture import losses_picture
from results_page import results_page, with_block
from run_measures import CONFIDENCE, ECE_PSI, ensemble_accuracy
from study_section import means_table, search_table

from losslab.cli import main
from losslab.errors import UserError
from losslab.report import TEST_FOLDER, read_confirmation, summarise_folder
from losslab.run import RunFolder, write_predictions
from losslab.study import read_results

TUNED = """\
experiment: tiny.yaml
arms:
  cross-entropy: {model.init_args.loss: {class_path: losslab.losses.CrossEntropyLoss}}
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
tune:
  model.init_args.optimizer.init_args.lr: [0.002, 0.02, 0.2]
seeds: [0, 1]
baseline: {arm: cross-entropy}
"""
EXPERIMENT = small_studies.EXPERIMENT.replace(
    "{hidden: [16],", "{hidden: [16], optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.002}},"
)
SWEEP = ["sweep", "--config", "study.yaml", "--name", "focal-balanced", "--data.imbalance", "0.2"]
CONFIRM = ["confirm", "runs/focal-balanced", "--top", "all", "--seeds", "6"]
NAME = "focal-balanced"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a confirmed study, and its kept file in kept/."""
    folder = tmp_path_factory.mktemp("finished")
    study = small_studies.run_study(folder, NAME, TUNED, *SWEEP[5:], experiment=EXPERIMENT)
    with contextlib.chdir(folder):
        assert main(CONFIRM) == 0
        keep(study, folder / "kept")
    return folder


@pytest.fixture
def study(finished: Path) -> KeptStudy:
    """What the kept file holds."""
    read = read_kept_study(kept_file(finished / "kept", NAME))
    assert read is not None
    return read


@pytest.fixture
def copied(finished: Path, own_folder: Path) -> Path:
    """The study and its kept file, in the current folder."""
    shutil.copytree(finished, own_folder, dirs_exist_ok=True)
    return Path("runs") / NAME


# What is committed


@pytest.mark.parametrize("file", results.rendered(), ids=lambda file: file.name)
def test_what_is_committed_is_what_the_kept_records_say(file: Path) -> None:
    assert file.read_text() == results.rendered()[file], "`make results` writes it again"


def test_every_kept_study_is_whole_enough_to_be_read() -> None:
    for name, kept in results.kept_studies(results.KEPT).items():
        assert kept.kept.header["name"] == name
        assert len({(r["stage"], r["setting_hash"], r["seed"]) for r in kept.kept.results}) == len(kept.kept.results)


def test_every_measured_number_of_the_findings_comes_from_a_record() -> None:
    text = findings.PLACEHOLDER.sub("", results.FINDINGS.read_text())
    assert re.findall(r"\d[\d.,]*\s*(?:%|percent|points?\b)", text) == []


# Keep and restore


def test_kept_numbers_are_the_studys(finished: Path, study: KeptStudy) -> None:
    told = read_confirmation(finished / "runs" / NAME / "confirm")
    kept = study.newest
    assert told is not None
    assert kept is not None
    assert (kept.reads, kept.second_reads, kept.whole) == (told.reads, told.second_reads, told.whole) == (12, 0, True)
    assert kept.summary.family is not None
    assert told.summary.family is not None
    for ours, theirs in zip(kept.summary.family.verdicts, told.summary.family.verdicts, strict=True):
        assert ours.metric == theirs.metric
        assert ours.word == theirs.word
        assert ours.mean == pytest.approx(theirs.mean, abs=2e-6)
    searched, _ = summarise_folder(finished / "runs" / NAME)
    assert [s.setting_hash for s in study.search.settings] == [s.setting_hash for s in searched.settings]


def test_confidence_and_the_ece_after_psi_are_measured_from_the_predictions(study: KeptStudy) -> None:
    for result in study.kept.of_stage("confirm"):
        assert 0.1 < result["metrics"][CONFIDENCE] <= 1
        assert (ECE_PSI in result["metrics"]) == result["label"].startswith("focal")
        assert result["parameters"] == 784 * 16 + 16 + 16 * 10 + 10


def test_restored_in_another_folder_nothing_is_trained_or_read_again(finished: Path, own_folder: Path) -> None:
    for file in ("study.yaml", "tiny.yaml"):
        shutil.copy(finished / file, own_folder)
    file = kept_file(finished / "kept", NAME)
    kept = read_kept(file)
    assert kept is not None
    study = Path("runs") / NAME
    assert restore(file, study) == len(kept.results) + len(kept.of_stage("confirm"))
    assert restore(file, study) == 0
    assert main(SWEEP) == 0
    assert main(CONFIRM) == 0
    assert not list(study.rglob("metrics.csv"))
    assert not Path("runs/test_reads.jsonl").exists()
    assert len(read_results(study / "confirm" / TEST_FOLDER)) == 12
    again = keep(study, Path("kept"))
    assert [r["metrics"] for r in again.results] == [r["metrics"] for r in kept.results]
    assert again.results == kept.results


def test_after_a_loss_only_what_is_missing_is_trained(copied: Path) -> None:
    lines = Path(f"kept/{NAME}.jsonl").read_text().splitlines(keepends=True)
    gone = next(line for line in lines[1:] if json.loads(line)["stage"] == "search")
    Path(f"kept/{NAME}.jsonl").write_text("".join(line for line in lines if line != gone))
    shutil.rmtree("runs")
    restore(Path(f"kept/{NAME}.jsonl"), copied)
    assert main(SWEEP) == 0
    assert len(list(copied.rglob("metrics.csv"))) == 1
    keep(copied, Path("kept"))
    merged, missing = read_kept(Path(f"kept/{NAME}.jsonl")), json.loads(gone)
    assert merged is not None
    assert len(merged.results) == len(lines) - 1
    assert missing["metrics"] in [result["metrics"] for result in merged.results]


def test_keeping_loses_no_result_and_no_measurement(copied: Path) -> None:
    before = Path(f"kept/{NAME}.jsonl").read_bytes()
    shutil.rmtree(copied / "confirm" / "runs")  # the predictions are gone
    keep(copied, Path("kept"))
    assert Path(f"kept/{NAME}.jsonl").read_bytes() == before
    shutil.rmtree(copied / "confirm")
    next(iter((copied / "results").glob("*/*.json"))).unlink()
    keep(copied, Path("kept"))
    assert Path(f"kept/{NAME}.jsonl").read_bytes() == before


def test_what_is_run_again_is_compared_with_what_was_kept(copied: Path) -> None:
    file = Path(f"kept/{NAME}.jsonl")
    former = read_kept(file)
    assert former is not None
    assert kept_difference(None, former) == "none of them was kept before and run again"
    assert kept_difference(former, keep(copied, Path("kept"))) == "none of them was kept before and run again"
    without_start = [{key: value for key, value in line.items() if key != "started_at"} for line in former.results]
    by_a_former_version = Kept(former.header, without_start)
    assert kept_difference(by_a_former_version, former) == "none of them was kept before and run again"
    shutil.rmtree(copied)
    assert main([*SWEEP]) == 0
    assert main([*CONFIRM, "--again"]) == 0
    again = keep(copied, Path("kept"))
    for line, before in zip(again.results, former.results, strict=True):
        line["seconds"] = before["seconds"]  # short trainings often take the same milliseconds
    assert (
        kept_difference(former, again)
        == f"{len(again.results)} of them were kept before and run again: no metric differs"
    )
    again.results[0]["metrics"]["val/acc"] += 0.25
    assert "val/acc differs most, by up to 0.25" in kept_difference(former, again)


def test_a_half_finished_study_is_kept_as_far_as_it_is(copied: Path) -> None:
    shutil.rmtree(copied / "confirm")
    kept = keep(copied, Path("elsewhere"))
    assert {result["stage"] for result in kept.results} == {"search"}
    half = read_kept_study(Path(f"elsewhere/{NAME}.jsonl"))
    assert half is not None
    assert half.newest is None
    assert "not confirmed yet" in results_page({NAME: half}, "", Path())


def test_another_study_of_the_same_name_is_refused(copied: Path) -> None:
    record = json.loads((copied / "study.json").read_text())
    record["experiment"]["trainer"]["max_epochs"] = 3
    (copied / "study.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="holds another study"):
        keep(copied, Path("kept"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep", "runs/none"], "no study.json"),
        (["restore", "none"], "there is no"),
        (["kep", "runs/none"], "give nothing, keep runs/NAME or restore NAME, got 'kep runs/none'"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


# The page


def test_the_table_has_each_setting_with_its_value_means_and_verdicts(study: KeptStudy) -> None:
    assert study.newest is not None
    summary = study.newest.summary
    lines = means_table(study, summary, "confirm").splitlines()
    assert lines[0].startswith("|  | lr | macro precision | macro recall | head precision")
    assert "ECE after psi | confidence" in lines[0]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| cross-entropy", "| focal"]
    focal = next(setting for setting in summary.settings if setting.label == "focal")
    mean, sd = focal.mean_sd("test/recall/tail")
    assert f"{100 * mean:.2f} ± {100 * sd:.2f}" in lines[3]
    assert summary.family is not None
    words = [v.word for v in summary.family.verdicts if v.setting == "focal"]
    assert (lines[3].count("▲"), lines[3].count("▼")) == (words.count("higher"), words.count("lower"))


def test_the_search_shows_what_was_chosen(study: KeptStudy) -> None:
    text = search_table(study)
    for setting in study.search.settings:
        assert f"**{100 * setting.mean_sd('val/f1/macro')[0]:.2f}**" in text
    assert text.count("**") == 2 * len(study.search.settings)


def test_the_page_tells_where_its_numbers_come_from(finished: Path, study: KeptStudy) -> None:
    page = results_page({NAME: study}, "# Found\n\n{{focal-balanced|focal|f1/macro}} of 100", finished)
    assert "`losslab confirm runs/focal-balanced --top all --seeds 6`" in page
    assert "12 runs, each once" in page
    assert "Every loss on balanced MNIST: not run yet" in page


def test_a_placeholder_is_the_number(study: KeptStudy) -> None:
    assert study.newest is not None
    focal = next(setting for setting in study.newest.summary.settings if setting.label == "focal")
    mean, sd = focal.mean_sd("test/recall/macro")
    filled = findings.filled("a {{focal-balanced|focal|recall/macro}} b", {NAME: study}, "findings.md")
    assert filled == f"a {100 * mean:.2f} ± {100 * sd:.2f} b"
    difference = findings.filled("{{focal-balanced|focal|recall/tail|difference}}", {NAME: study}, "findings.md")
    assert re.fullmatch(r"[+−]\d+\.\d\d \[[+−]\d+\.\d\d, [+−]\d+\.\d\d\]", difference)


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("focal-balance|focal|recall/macro", "no study 'focal-balance' is kept with a confirmation; there are focal-b"),
        ("focal-balanced|focus|recall/macro", "no setting 'focus' in focal-balanced; there are cross-entropy, focal"),
        ("focal-balanced|focal|recal/macro", "no metric 'recal/macro' of 'focal'; there are"),
        ("focal-balanced|focal|ece|difference", "no verdict on it; there are those on precision/macro"),
        ("focal-balanced|cross-entropy|f1/macro|difference", "no verdict on it"),
        ("focal-balanced|focal", "must be STUDY"),
        ("focal-balanced|focal|ece|diference", "must be STUDY"),
    ],
)
def test_a_wrong_placeholder_is_told(study: KeptStudy, placeholder: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as told:
        findings.filled(f"{{{{{placeholder}}}}}", {NAME: study}, "findings.md")
    assert f"findings.md: {{{{{placeholder}}}}}" in str(told.value)


def test_the_picture_is_the_same_for_the_same_numbers_and_changes_with_them(study: KeptStudy) -> None:
    assert study.newest is not None
    summary = study.newest.summary
    picture = losses_picture(summary)
    assert picture == losses_picture(summary)
    assert "<dc:date>" not in picture
    assert all(f"<!-- {setting.label} -->" in picture for setting in summary.settings)
    summary.settings[1].values["test/recall/tail"][0] += 0.01
    assert picture != losses_picture(summary)


def test_the_readmes_block_is_replaced_and_nothing_else() -> None:
    assert with_block("a\n<!-- results -->\nold\n<!-- /results -->\nb\n", "new") == (
        "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
    )
    for readme in ("a", "<!-- results -->", "<!-- /results --><!-- results -->"):
        with pytest.raises(UserError, match=re.escape("must have the lines <!-- results -->")):
            with_block(readme, "new")


@pytest.mark.parametrize("label", ["gamma=2"])
def test_a_cell_trained_again_is_within_four_sd_of_its_kept_mean(label: str, repository: Path) -> None:
    """Focal's gamma on the embedded images, three of the ten kept seeds trained and tested anew, each alone."""
    study = read_kept_study(repository / "experiments" / "results" / "focal-embedded.jsonl")
    assert study is not None
    assert study.newest is not None
    setting = next(s for s in study.newest.summary.settings if s.label == label)
    assert len(setting.seeds) == 10
    lr = study.tuned[setting.setting_hash]["lr"]
    experiment = ["--config", str(repository / "experiments" / "mlp_64.yaml"), "--data.source", "embedded"]
    loss = ["--model.loss", "FocalLoss", "--model.loss.gamma", label.removeprefix("gamma=")]
    for seed in setting.seeds[:3]:
        seeded = ["--seed_everything", str(seed), "--name", f"cell-{seed}", "--trainer.enable_progress_bar", "false"]
        assert main(["fit", *experiment, *loss, "--model.optimizer.lr", str(lr), *seeded]) == 0
        assert main(["test", "--run", f"runs/cell-{seed}"]) == 0
        (file,) = Path("runs").glob(f"cell-{seed}/*/test/metrics.json")
        measured = json.loads(file.read_text())["metrics"]
        for key in ("test/f1/macro", "test/precision/macro", "test/recall/macro", "test/ece", "test/acc"):
            mean, sd = setting.mean_sd(key)
            assert abs(measured[key] - mean) <= 4 * sd, key


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
