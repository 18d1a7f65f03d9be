"""`losslab confirm`, fresh seeds, the test images once, both stages on one page."""

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
from optuna.trial import TrialState

from losslab.cli import main
from losslab.report import TEST_FOLDER, read_confirmation, read_trials, summarise_folder
from losslab.report.summary import counting_confirmation, read_confirmations
from losslab.run import config_hash
from losslab.study import read_declared, read_results, result_path


@pytest.fixture(scope="module")
def losses_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three losses at two seeds."""
    return small_studies.run_study(tmp_path_factory.mktemp("losses"), "losses", small_studies.LOSSES)


@pytest.fixture
def study(losses_study: Path, own_folder: Path) -> Path:
    """A copy of its folder, in the current one."""
    shutil.copytree(losses_study.parent.parent, own_folder, dirs_exist_ok=True)
    return Path("runs/losses")


@pytest.fixture(scope="module")
def confirmed_study(losses_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, confirmed with six seeds."""
    folder = tmp_path_factory.mktemp("confirmed")
    shutil.copytree(losses_study.parent.parent, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder):
        assert main(["confirm", "runs/losses", "--top", "all", "--seeds", "6"]) == 0
    return folder / "runs" / "losses"


def reads() -> list[dict[str, Any]]:
    file = Path("runs/test_reads.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_chosen_settings_are_trained_on_fresh_seeds_and_tested_once(confirmed_study: Path) -> None:
    summary, _ = summarise_folder(confirmed_study)
    confirm = confirmed_study / "confirm"
    results = read_results(confirm / TEST_FOLDER)
    chosen = {setting.setting_hash for setting in summary.settings}
    assert {(r["setting_hash"], r["seed"]) for r in results} == {(h, seed) for h in chosen for seed in range(2, 8)}
    assert not {*summary.study.seeds} & {result["seed"] for result in results}
    with contextlib.chdir(confirmed_study.parent.parent):
        assert len(reads()) == len(results) == 18
        assert len({read["config_hash"] for read in reads()}) == 18
        for result in results:
            told = json.loads((confirm / result["run"] / "test" / "metrics.json").read_text())["metrics"]
            assert {key: result["metrics"][key] for key in told} == told
            assert result["earlier_reads"] == 0


def test_the_verdicts_are_of_the_test_images_and_of_those_seeds(confirmed_study: Path) -> None:
    confirmation = read_confirmation(confirmed_study / "confirm")
    assert confirmation is not None
    assert confirmation.whole
    assert (confirmation.reads, confirmation.second_reads) == (18, 0)
    family = confirmation.summary.family
    assert family is not None
    assert family.metrics == ["test/precision/macro", "test/recall/macro", "test/f1/macro"]
    assert family.seeds == 6
    assert family.size == 2 * 3
    assert "test split of tiny-digits" in confirmation.summary.heading
    by_seed = {r["seed"]: r["metrics"]["test/f1/macro"] for r in read_results(confirmed_study / "confirm" / TEST_FOLDER)
               if r["setting"]["arm"].startswith("dice")}  # fmt: skip
    dice = next(setting for setting in confirmation.summary.settings if setting.arm.startswith("dice"))
    assert dice.values["test/f1/macro"] == [by_seed[seed] for seed in range(2, 8)]


def test_the_page_has_both_stages_and_keeps_them_apart(confirmed_study: Path) -> None:
    page = (confirmed_study / "report.html").read_text()
    first, second = page.index('id="confirmation"'), page.index('id="verdicts"')
    assert "test split of tiny-digits" in page[first:second]
    assert "validation split" not in page[first:second]
    assert "fresh seeds 2 to 7" in page[first:second]
    assert "18 runs, each once" in page[first:second]
    assert "test split" not in page[second:]
    assert "Confirmed on fresh seeds" in page[page.index('id="answer"') : first]
    text = (confirmed_study / "report.md").read_text()
    assert "18 runs, each once.\n" in text
    assert text.index("test split") < text.index("The search") < text.index("validation split")


@pytest.mark.slow
def test_best_yaml_is_what_was_confirmed_whatever_is_called_later(
    confirmed_study: Path, own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    best, confirm = Path("runs/losses/best.yaml"), Path("runs/losses/confirm")
    confirmation = read_confirmation(confirm)
    assert confirmation is not None
    assert confirmation.choice_text in best.read_text()
    assert best.read_text().startswith(f"# {confirmation.summary.chosen.label}, chosen by the confirmation losses/conf")
    monkeypatch.setattr("losslab.report.statistics.ERROR", 0.2)  # six seeds are too few for six comparisons at 0.05
    baseline, dice = (next(s for s in confirmation.summary.settings if s.arm.startswith(a)) for a in ("cross", "dice"))
    for seed in baseline.seeds:  # as if dice were better on the test images
        paths = [result_path(confirm / TEST_FOLDER, s.setting_hash, seed) for s in (baseline, dice)]
        base, better = (json.loads(path.read_text()) for path in paths)
        better["metrics"]["test/f1/macro"] = base["metrics"]["test/f1/macro"] + 0.5 + seed / 100
        paths[1].write_text(json.dumps(better))

    assert main(["report", "runs/losses"]) == 0
    text, config = best.read_text(), yaml.safe_load(best.read_text())
    assert config_hash(config, with_seed=False)[:12] == dice.setting_hash
    assert config["seed_everything"] == 2  # of the fresh seeds 2 to 7
    assert text.startswith(f"# {dice.label}, chosen by the confirmation losses/confirm on the fresh seeds 2 to 7 and")
    choice = f"{dice.label} is shown to have a better macro F1 than {baseline.label}, and is the choice."
    assert choice in text
    assert choice in Path("runs/losses/report.md").read_text()
    page = Path("runs/losses/report.html").read_text()
    assert choice in page[: page.index('id="confirmation"')]
    commands = page[page.index("Commands to reproduce") :]
    assert (
        commands.index("losslab sweep")
        < commands.index("losslab confirm runs/losses --top all --seeds 6")
        < commands.index("losslab fit --config runs/losses/best.yaml")
    )
    sweep = ["sweep", "--config", "study.yaml", "--name", "losses"]
    capsys.readouterr()
    assert main(sweep) == 0
    assert best.read_text() == text
    assert capsys.readouterr().out.count(f"{best}: ") == 1  # the search's choice is not written first

    (confirm / "summary.csv").unlink()  # a confirmation that was killed counts for nothing
    assert main(sweep) == 0
    assert "chosen by the study losses on validation" in best.read_text().splitlines()[0]
    assert "Confirmed on fresh seeds" not in Path("runs/losses/report.html").read_text()


def test_only_the_best_checkpoints_stay(confirmed_study: Path) -> None:
    kept = {path.parts[-4] for path in (confirmed_study / "confirm").rglob("last.ckpt")}
    summary, _ = summarise_folder(confirmed_study / "confirm")
    assert kept == {summary.best.setting_hash}


def test_the_same_command_again_reads_nothing(confirmed_study: Path, own_folder: Path) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    files = {file: file.read_bytes() for file in Path("runs/losses/confirm").rglob("*.json")}
    assert main(["confirm", "runs/losses", "--top", "all", "--seeds", "6"]) == 0
    assert {file: file.read_bytes() for file in files} == files
    assert main(["confirm", "runs/losses", "--top", "all"]) == 0  # whatever number is the default now
    assert len(reads()) == 18


def test_another_confirmation_needs_again_and_takes_further_seeds(
    confirmed_study: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    assert main(["confirm", "runs/losses", "--top", "1", "--seeds", "2"]) == 2
    assert "has begun already" in capsys.readouterr().err
    assert len(reads()) == 18
    assert main(["confirm", "runs/losses", "--top", "1", "--seeds", "2", "--again"]) == 0
    assert {result["seed"] for result in read_results(Path("runs/losses/confirm-2/test"))} == {8, 9}
    page = Path("runs/losses/report.html").read_text()
    assert "losses/confirm-2" in page
    assert "losses/confirm<" in page
    said = "Test images read: 4 runs, each once. They had been read for losses/confirm before."
    for shown in (page, Path("runs/losses/report.md").read_text(), capsys.readouterr().out):
        assert shown.count(said) == 1
    assert page.count("They had been read") == 1  # of the second confirmation only


@pytest.mark.slow
def test_images_that_have_answered_are_not_asked_again_without_again(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--config", "study.yaml", "--name", "copy"]) == 0  # another study with the same settings
    assert main(["confirm", "runs/losses", "--seeds", "1"]) == 0
    trained = len(list(Path("runs/copy").rglob("last.ckpt")))
    assert main(["confirm", "runs/copy", "--seeds", "1"]) == 2
    assert "the test images were already read for 3 of these configurations" in capsys.readouterr().err
    assert len(list(Path("runs/copy").rglob("last.ckpt"))) == trained  # told before anything was trained
    assert main(["confirm", "runs/copy", "--seeds", "1", "--again"]) == 0
    assert len(reads()) == 6
    assert "3 of them not for the first time" in Path("runs/copy/report.html").read_text()


@pytest.mark.slow
def test_killed_it_goes_on_and_reads_each_run_once(study: Path, own_folder: Path) -> None:
    command = ["confirm", "runs/losses", "--top", "all", "--seeds", "3"]
    process = background.start(own_folder, command)
    background.wait_for(lambda: len(list(Path("runs/losses/confirm/results").glob("*/*.json"))) >= 2, process)
    background.stop(process, signal.SIGKILL)
    assert not reads()  # trained first, all of it
    done = {file: file.stat().st_mtime_ns for file in Path("runs/losses/confirm/results").glob("*/*.json")}
    assert len(done) < 9
    assert main(command) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert len(reads()) == len(read_results(Path("runs/losses/confirm/test"))) == 9


@pytest.mark.slow
def test_two_workers_confirm_the_same(study: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository / "tests"))
    command = ["confirm", "runs/losses", "--top", "1", "--seeds", "2"]
    assert main([*command, "--workers", "2"]) == 0
    ours = {(r["setting_hash"], r["seed"]): r["metrics"] for r in read_results(Path("runs/losses/confirm/test"))}
    shutil.rmtree("runs/losses/confirm")
    Path("runs/test_reads.jsonl").unlink()
    assert main(command) == 0
    theirs = {(r["setting_hash"], r["seed"]): r["metrics"] for r in read_results(Path("runs/losses/confirm/test"))}
    assert ours == theirs


def test_an_unfinished_study_is_not_confirmed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((study / "study.json").read_text())
    record["declared"]["seeds"] = [0, 1, 2]  # as while the third seed is being trained
    (study / "study.json").write_text(json.dumps(record))
    assert main(["confirm", "runs/losses"]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert not reads()


def test_a_study_whose_trials_cannot_be_read_is_not_confirmed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "journal.log").unlink()
    assert main(["confirm", "runs/losses"]) == 2
    assert "runs/losses is finished is unknown" in capsys.readouterr().err


def test_a_search_with_trials_left_is_not_confirmed(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_studies.run_study(own_folder, "search", small_studies.SEARCH.replace("trials: 14", "trials: 3"))
    record = json.loads(Path("runs/search/study.json").read_text())
    record["study"]["trials"] = 40  # as after a kill between two trials: none is running, none is waiting
    Path("runs/search/study.json").write_text(json.dumps(record))
    assert main(["confirm", "runs/search", "--seeds", "1"]) == 2
    assert "37 trials are left" in capsys.readouterr().err


def test_a_study_whose_baseline_failed_is_not_compared_with_another(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for result in read_results(study):
        if result["setting"]["arm"] == "cross-entropy":
            (study / "results" / result["setting_hash"] / f"{result['seed']}.json").unlink()
    assert main(["confirm", "runs/losses", "--seeds", "1"]) == 2
    assert "the baseline {'arm': 'cross-entropy'} has no result for each seed" in capsys.readouterr().err


@pytest.mark.usefixtures("study")
def test_a_refused_confirmation_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confirm", "runs/losses", "--seeds", "2", "--trainer.max_epochs", "3"]) == 2
    assert main(["confirm", "runs/losses", "--top", "1", "--seeds", "1"]) == 0
    assert not Path("runs/losses/confirm-2").exists()


def test_it_is_called_where_the_sweep_was_and_of_a_sweep(
    confirmed_study: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["confirm", str(confirmed_study)]) == 2
    assert "is not in runs/ of the current folder" in capsys.readouterr().err
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    assert main(["confirm", "runs/losses/confirm", "--seeds", "1"]) == 2
    assert "is a confirmation itself" in capsys.readouterr().err
    assert main(["confirm", str(own_folder / "runs" / "losses"), "--top", "all", "--seeds", "6"]) == 0
    assert len(reads()) == 18


def test_a_seed_that_failed_is_told(confirmed_study: Path, own_folder: Path) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    confirm = Path("runs/losses/confirm")
    dice = next(r for r in read_results(confirm) if r["setting"]["arm"].startswith("dice"))
    for folder in (confirm, confirm / TEST_FOLDER):
        (folder / "results" / dice["setting_hash"] / f"{dice['seed']}.json").unlink()
    confirmation = read_confirmation(confirm)
    assert confirmation is not None
    assert not confirmation.whole
    assert main(["report", "runs/losses"]) == 0
    for page in ("report.html", "report.md"):
        assert "17 runs, each once. It is not finished" in Path("runs/losses", page).read_text()


def test_a_confirmation_whose_baseline_failed_chooses_nothing(confirmed_study: Path, own_folder: Path) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    study, confirm = Path("runs/losses"), Path("runs/losses/confirm")
    assert counting_confirmation(read_confirmations(study)) is not None
    baseline = next(r for r in read_results(confirm) if r["setting"]["arm"].startswith("cross"))
    for folder in (confirm, confirm / TEST_FOLDER):
        result_path(folder, baseline["setting_hash"], baseline["seed"]).unlink()
    assert counting_confirmation(read_confirmations(study)) is None


def test_accepted_code_is_named_beside_the_confirmations_numbers(confirmed_study: Path, own_folder: Path) -> None:
    shutil.copytree(confirmed_study.parent.parent, own_folder, dirs_exist_ok=True)
    file = Path("runs/losses/confirm/study.json")
    changes = [{"at": "2026-01-31", "former": {"mine.MyLoss": "0123456789ab"}}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code_changes": changes}))
    confirmation = read_confirmation(file.parent)
    assert confirmation is not None
    assert confirmation.summary.heading.endswith(", code changed: mine.MyLoss")


def test_a_confirmation_measures_what_its_study_does(study: Path) -> None:
    record, kept = json.loads((study / "study.json").read_text()), {"monitor": "val/acc", "family": ["val/ece"]}
    for part in ("study", "declared"):
        record[part] |= kept
    (study / "study.json").write_text(json.dumps(record))
    refused = ["--trainer.max_epochs", "3"]  # after its files are written
    assert main(["confirm", "runs/losses", "--top", "1", "--seeds", "1", *refused]) == 2
    content = yaml.safe_load((study / "confirm" / "study.yaml").read_text())
    assert {key: content[key] for key in kept} == kept


def test_what_changes_a_result_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["confirm", "runs/losses", "--trainer.max_epochs", "3"]) == 2
    assert "not configured as the sweep had it" in capsys.readouterr().err
    assert not reads()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/none"], "no study.json"),
        (["runs/losses", "--top", "0"], "--top must be a number >= 1 or all, got '0'"),
        (["runs/losses", "--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["runs/losses", "--workers", "0"], "--workers must be >= 1, got 0"),
        (["runs/losses", "--sedes", "3"], "sedes"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["confirm", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_search_without_baseline_is_confirmed_against_its_best(
    own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_studies.run_study(own_folder, "search", small_studies.SEARCH.replace("trials: 14", "trials: 6"))
    finished = [
        t
        for t in read_trials(Path("runs/search"), read_declared(Path("runs/search"))).trials
        if t.state == TrialState.COMPLETE
    ]
    assert finished
    assert main(["confirm", "runs/search", "--top", "1", "--seeds", "2"]) == 0
    summary, _ = summarise_folder(Path("runs/search"))
    declared = read_declared(Path("runs/search/confirm"))
    assert declared.baseline == {"arm": summary.best.label}

    best = Path("runs/search/best.yaml")
    assert best.read_text().startswith(f"# {summary.best.label}, chosen by the confirmation search/confirm")
    confirmed = {result["setting_hash"] for result in read_results(Path("runs/search/confirm"))}
    other = next(setting for setting in summary.settings if setting.setting_hash not in confirmed)
    for seed in other.seeds:  # as if a further trial had found a better setting
        path = result_path(Path("runs/search"), other.setting_hash, seed)
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"metrics": result["metrics"] | {"val/f1/macro": 1.0}}))
    assert main(["report", "runs/search"]) == 0
    assert best.read_text().startswith(f"# {summary.best.label}, chosen by the confirmation search/confirm")
    assert f"# The search now chooses {other.label}, which was not confirmed.\n" in best.read_text()
    assert f"The search now chooses {other.label}, which was not confirmed" in caplog.text


def test_each_arm_is_confirmed_as_it_was_searched_whatever_the_arms_change(own_folder: Path) -> None:
    study = (
        "experiment: tiny.yaml\narms:\n  plain: {}\n  wide: {model.init_args.hidden: [20]}\n"
        "  short: {trainer.max_epochs: 1, data.init_args.batch_size: 50}\nseeds: [0]\nbaseline: {arm: plain}\n"
    )
    folder = small_studies.run_study(own_folder, "arms", study)
    assert main(["confirm", "runs/arms", "--top", "all", "--seeds", "1"]) == 0
    searched = {result["label"]: result["setting_hash"] for result in read_results(folder)}
    assert {r["label"]: r["setting_hash"] for r in read_results(folder / "confirm")} == searched
    assert len(set(searched.values())) == 3
    records = [json.loads((path / "study.json").read_text())["experiment"] for path in (folder, folder / "confirm")]
    assert records[0] == records[1]
