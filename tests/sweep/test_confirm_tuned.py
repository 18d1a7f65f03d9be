"""`losslab confirm` of a study whose seeds tune: its own trainings if all are confirmed, else fresh seeds that tune."""

import contextlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import background
import pytest
import small_studies
import yaml
from kill_moments import kill_at
from optuna.trial import TrialState
from small_studies import GAMMA_PATH, LR, TUNED, TUNED_EXPERIMENT

from losslab.cli import main
from losslab.errors import UserError
from losslab.report import TEST_FOLDER, read_confirmation, summarise_folder
from losslab.report.trials import Trials
from losslab.run import RunFolder, config_hash
from losslab.study import read_declared, read_results
from losslab.sweep.confirm import _read_finished

ALL = ["confirm", "runs/tuned", "--top", "all"]
F1 = "val/f1/macro"


@pytest.fixture(scope="module")
def confirmed_study(tuned_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study whose seeds tune, confirmed."""
    folder = tmp_path_factory.mktemp("confirmed")
    shutil.copytree(tuned_study.parent.parent, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder):
        assert main(ALL) == 0
    return folder / "runs" / "tuned"


@pytest.fixture
def confirmed(confirmed_study: Path, own_folder: Path) -> Path:
    """A copy of its folder, in the current one."""
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    return Path("runs/tuned")


def reads(folder: Path = Path()) -> list[dict[str, Any]]:
    file = folder / "runs/test_reads.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def trained(study: Path) -> set[Path]:
    return {path.relative_to(study) for path in study.glob("**/results/*/*.json") if TEST_FOLDER not in path.parts}


def test_all_of_a_study_are_confirmed_without_a_training_and_each_arm_and_seed_is_read_once(
    confirmed_study: Path, tuned_study: Path
) -> None:
    confirm = confirmed_study / "confirm"
    runs = {path.relative_to(tuned_study) for path in tuned_study.glob("runs/*/*")}
    assert {path.relative_to(confirmed_study) for path in confirmed_study.glob("runs/*/*")} == runs
    assert not list(confirm.glob("runs"))
    assert not list(confirm.glob("journal*"))
    summary, _ = summarise_folder(tuned_study)
    results = read_results(confirm / TEST_FOLDER)
    assert {(result["label"], result["seed"]) for result in results} == {
        (setting.label, seed) for setting in summary.settings for seed in (0, 1)
    }
    chosen = {f"../{run}" for setting in summary.settings for run in setting.runs}
    assert {result["run"] for result in results} == chosen
    told = reads(confirmed_study.parent.parent)
    assert len(told) == len(results) == 6
    configs = [RunFolder(confirm / result["run"]).config() for result in results]
    assert {read["config_hash"] for read in told} == set(map(config_hash, configs))
    for result in results:
        metrics = json.loads((confirm / result["run"] / "test" / "metrics.json").read_text())["metrics"]
        assert {key: result["metrics"][key] for key in metrics} == metrics
        assert result["earlier_reads"] == 0


def test_its_numbers_are_of_the_test_images_and_of_the_studys_own_seeds(confirmed_study: Path) -> None:
    confirmation = read_confirmation(confirmed_study / "confirm")
    assert confirmation is not None
    assert (confirmation.whole, confirmation.reads, confirmation.second_reads) == (True, 6, 0)
    summary, _ = summarise_folder(confirmed_study)
    assert [(s.label, s.seeds, s.choices) for s in confirmation.summary.settings] == [
        (s.label, s.seeds, s.choices) for s in summary.settings
    ]
    assert confirmation.summary.family is not None
    assert confirmation.summary.family.metrics == ["test/precision/macro", "test/recall/macro", "test/f1/macro"]
    assert "lr tuned by each seed" in confirmation.summary.heading
    best = (confirmed_study / "best.yaml").read_text()
    assert best.startswith("# cross-entropy, chosen by the confirmation tuned/confirm on the search's own seeds 0 to 1")
    median = confirmation.summary.chosen.median_choices[LR]
    assert f"# {LR} is {median:g}, the median of what its 2 seeds chose" in best
    assert yaml.safe_load(best)["model"]["init_args"]["optimizer"]["init_args"]["lr"] == median
    assert "which was not confirmed" not in best


@pytest.mark.slow
def test_the_same_command_again_reads_nothing_and_again_counts_as_second_reads(confirmed: Path) -> None:
    files = {file: file.read_bytes() for file in (confirmed / "confirm").rglob("*.json")}
    assert main(ALL) == 0
    assert len(reads()) == 6
    assert {file: file.read_bytes() for file in files} == files
    assert main([*ALL, "--again"]) == 0
    assert len(reads()) == 12
    confirmation = read_confirmation(confirmed / "confirm-2")
    assert confirmation is not None
    assert (confirmation.reads, confirmation.second_reads) == (6, 6)
    assert {file: file.read_bytes() for file in files} == files


@pytest.mark.slow
def test_killed_while_it_reads_it_asks_for_again_and_goes_on_with_what_is_unread(
    study: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = trained(study)
    process = background.start(own_folder, ALL, kill_at, "writing a test result", 3)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (len(reads()), len(read_results(study / "confirm" / TEST_FOLDER))) == (3, 2)
    assert main(ALL) == 2
    error = capsys.readouterr().err
    assert "the test images were already read for 1 of these configurations and seeds" in error
    assert "--again reads them once more" in error
    assert main([*ALL, "--again"]) == 0
    assert not (study / "confirm-2").exists()
    assert len(reads()) == 7
    confirmation = read_confirmation(study / "confirm")
    assert confirmation is not None
    assert (confirmation.whole, confirmation.reads, confirmation.second_reads) == (True, 6, 1)
    assert {path for path in trained(study) if "confirm" not in path.parts} == before


@pytest.mark.slow
@pytest.mark.parametrize(("top", "labels"), [("1", 2), ("all", 3)])
def test_fresh_seeds_tune_for_themselves_and_are_read_once(study: Path, top: str, labels: int) -> None:
    """Of the best arms alone, which were chosen by the sweep's seeds; and of all, if a number of seeds is given."""
    assert main(["confirm", "runs/tuned", "--top", top, "--seeds", "1"]) == 0
    confirm = study / "confirm"
    declared, summary = read_declared(confirm), summarise_folder(study)[0]
    assert declared.tunes_each_seed
    assert declared.lists == {LR: small_studies.LEARNING_RATES}
    results, tested = read_results(confirm), read_results(confirm / TEST_FOLDER)
    assert {result["seed"] for result in results} == {2}
    best = [setting.label for setting in summary.ranked if setting is not summary.baseline]
    arms = {"cross-entropy", *best[: labels - 1]}
    assert {result["label"] for result in tested} == arms
    assert len(reads()) == len(tested) == labels
    for each in tested:
        of_arm = [result for result in results if result["setting"]["arm"] == each["label"]]
        assert {result["setting"]["values"][LR] for result in of_arm} >= {*small_studies.LEARNING_RATES}
        chosen = max(of_arm, key=lambda result: result["metrics"][F1])
        assert each["tuned"] == {LR: chosen["setting"]["values"][LR]}
        assert each["run"] == chosen["run"]
    kept = {str(path.parent.parent.relative_to(confirm)) for path in confirm.glob("runs/*/*/checkpoints/last.ckpt")}
    assert kept == {each["run"] for each in tested}
    assert "fresh seeds 2 to 2" in (study / "best.yaml").read_text()
    assert "which was not confirmed" not in (study / "best.yaml").read_text()
    if top == "all":
        assert main(ALL) == 2  # another confirmation, of the study's own seeds
        assert main([*ALL, "--again"]) == 0
        assert {result["seed"] for result in read_results(study / "confirm-2" / TEST_FOLDER)} == {0, 1}
        assert len(reads()) == 9


GRID = (
    TUNED.replace("cross-entropy", "plain")
    .replace("seeds: [0, 1]", f"seeds: [0]\ngrid: {{{GAMMA_PATH}: [0, 2]}}\nmargins: {{{F1}: 0.01}}")
    .replace("{arm: plain}", f"{{arm: focal, {GAMMA_PATH}: 0}}")
)
GRID = "\n".join(line for line in GRID.splitlines() if not line.startswith(("  plain:", "  dice:"))) + "\n"


@pytest.mark.slow
def test_each_value_of_a_grid_is_a_setting_that_is_tuned_and_confirmed(own_folder: Path) -> None:
    """One arm with two values of gamma; the arms of the confirmation are called gamma=0 and gamma=2."""
    folder = small_studies.run_study(own_folder, "grid", GRID, experiment=TUNED_EXPERIMENT)
    summary, _ = summarise_folder(folder)
    assert [setting.label for setting in summary.settings] == ["gamma=0", "gamma=2"]
    assert summary.baseline is summary.settings[0]
    assert main(["confirm", "runs/grid", "--top", "all"]) == 0
    confirmation = read_confirmation(folder / "confirm")
    assert confirmation is not None
    assert [setting.label for setting in confirmation.summary.settings] == ["gamma=0", "gamma=2"]
    assert confirmation.summary.baseline is confirmation.summary.settings[0]
    assert confirmation.summary.study.margins == {"test/f1/macro": 0.01}
    assert main(["confirm", "runs/grid", "--top", "all"]) == 0
    assert len(reads()) == 2
    assert "which was not confirmed" not in (folder / "best.yaml").read_text()
    assert main(["confirm", "runs/grid", "--seeds", "1", "--again"]) == 0
    second = read_confirmation(folder / "confirm-2")
    assert second is not None
    assert second.summary.baseline is not None
    assert "which was not confirmed" not in (folder / "best.yaml").read_text()


def test_what_changes_a_result_or_is_gone_is_refused_before_an_image_is_read(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ALL, "--trainer.max_epochs", "3"]) == 2
    assert "is not configured as the sweep had it. Leave out --trainer.max_epochs 3" in capsys.readouterr().err
    summary, _ = summarise_folder(study)
    shutil.rmtree(study / summary.settings[-1].runs[-1] / "checkpoints")
    assert main(ALL) == 2
    assert "the run of dice seed=1, which is to be tested, is gone from runs/tuned/runs" in capsys.readouterr().err
    assert not reads()
    assert not (study / "confirm" / "study.json").exists()


def test_a_study_that_was_killed_before_it_extended_a_list_is_not_finished(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _read_finished(study)[0].complete
    trials = small_studies.trials("tuned")
    listed = [trial for trial in trials if trial.params[LR] in small_studies.LEARNING_RATES]
    assert len(listed) < len(trials)
    for module in ("sweep.confirm", "report.summary"):
        monkeypatch.setattr(f"losslab.{module}.read_trials", lambda *_: Trials(listed, {}, ""))
    with pytest.raises(UserError, match=r"runs/tuned is not finished: \d trials are left"):
        _read_finished(study)


def test_nothing_is_compared_before_each_seed_has_tried_all_its_values(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One value of each arm and seed would look complete."""
    assert summarise_folder(study)[0].family is not None
    (missing, *_) = sorted((study / "results").glob("*/*.json"))
    missing.unlink()
    summary, _ = summarise_folder(study)
    assert summary.settings[0].seeds == [0, 1]
    assert (summary.left, summary.family) == (1, None)
    assert summary.heading.endswith("not finished: 1 training is left")
    assert main(["report", "runs/tuned"]) == 0
    assert "what a seed chooses may still change: nothing is compared yet" in (study / "report.html").read_text()
    trials = small_studies.trials("tuned")
    waiting = [trial for trial in trials if trial.params["seed"] == 1]
    for trial in waiting:
        trial.state = TrialState.WAITING
    monkeypatch.setattr("losslab.report.summary.read_trials", lambda *_: Trials(trials, {}, ""))
    assert summarise_folder(study)[0].left >= len(waiting)


@pytest.mark.slow
def test_a_result_that_was_deleted_is_not_replaced_by_the_next_best(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = summarise_folder(study)[0].settings[0].runs[0]
    _, setting_hash, seed = best.split("/")
    (study / "results" / setting_hash / f"{seed.split('-')[1]}.json").unlink()
    assert main(ALL) == 2
    assert "runs/tuned lacks the results of 1 finished trials. Put them back, or delete" in capsys.readouterr().err
    (study / "journal.log").unlink()
    trained_before = trained(study)
    assert main(["sweep", "--config", "study.yaml", "--name", "tuned"]) == 0
    assert len(trained(study) - trained_before) == 1
    assert summarise_folder(study)[0].settings[0].runs[0] == best
    assert main(ALL) == 0
