"""A study is trained by one code on the same images, or it stops; nothing that it has is lost."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_studies
from changing_pictures import Pictures
from new_process import forget, write_loss
from optuna.trial import TrialState

from losslab.cli import main
from losslab.errors import UserError
from losslab.run import CommandLine
from losslab.study import read_results, read_study
from losslab.sweep.identity import StudyChangedError
from losslab.sweep.study import Study
from losslab.sweep.workers import PARENT, STORAGE

LOSS = "model.init_args.loss"
ARMS = f"""\
experiment: tiny.yaml
arms:
  plain: {{{LOSS}: {{class_path: losslab.losses.CrossEntropyLoss}}}}
  mine: {{{LOSS}: {{class_path: studied.MyLoss}}}}
seeds: [0]
baseline: {{arm: plain}}
"""
SEARCH = """\
experiment: tiny.yaml
arms: {mine: {model.init_args.loss: {class_path: studied.MyLoss}}}
space:
  model.init_args.dropout:
    class_path: optuna.distributions.FloatDistribution
    init_args: {low: 0.0, high: 0.5}
trials: 1
seeds: [0]
"""
EXPERIMENT = small_studies.EXPERIMENT.replace("max_epochs: 2", "max_epochs: 1")
COMMAND = ["sweep", "--config", "study.yaml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two finished studies, a grid and a search, with a loss of the user's own."""
    folder = tmp_path_factory.mktemp("code")
    with contextlib.chdir(folder):
        write_loss("studied")
    small_studies.run_study(folder, "search", SEARCH, experiment=EXPERIMENT)
    small_studies.run_study(folder, "grid", ARMS, experiment=EXPERIMENT)
    yield folder
    forget("studied")


@pytest.fixture
def edited(trained: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, in the current folder; the loss is twice what it was."""
    shutil.copytree(trained, own_folder, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(str(own_folder))
    write_loss("studied", 2.0)
    return own_folder


@pytest.fixture(autouse=True)
def pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is written, which takes long, except where a test looks at it."""
    if "shown" not in request.node.name:
        for module in ("command", "confirm"):
            monkeypatch.setattr(f"losslab.sweep.{module}.write_report", lambda folder: None)


def record(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("runs", name, "study.json").read_text())
    return content


def contents(name: str) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in Path("runs", name).rglob("*") if file.is_file()}


@pytest.mark.parametrize("command", [[*COMMAND, "--name", "grid"], ["confirm", "runs/grid", "--seeds", "1"]])
def test_a_study_whose_code_changed_is_refused_by_name(
    edited: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents("grid")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "the code of studied.MyLoss, or what it uses, has changed since runs/grid was trained" in told
    assert "another --name" in told
    assert "--accept-code-change" in told
    after = contents("grid")
    assert {file: after[file] for file in before} == before
    assert not list(Path("runs/grid").glob("confirm/results/*"))
    write_loss("studied")
    Path("studied.py").write_text(Path("studied.py").read_text().replace("WEIGHT = 1.0", "WEIGHT = 1.0  # one"))
    assert main([*COMMAND, "--name", "grid"]) == 0


def test_an_accepted_change_is_recorded_and_shown(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former = record("search")["code"]["studied.MyLoss"]
    Path("study.yaml").write_text(SEARCH)
    command = [*COMMAND, "--name", "search", "--trials", "2"]
    assert main(command) == 2
    assert main([*command, "--accept-code-change"]) == 0
    assert main(command) == 0
    (change,) = record("search")["code_changes"]
    assert change["former"] == {"studied.MyLoss": former}
    assert "--accept" not in record("search")["command"]
    digests = [result["code"]["studied.MyLoss"] for result in read_results(Path("runs/search"))]
    assert set(digests) == {former, record("search")["code"]["studied.MyLoss"]}
    shown = "code changed: studied.MyLoss"
    assert shown in capsys.readouterr().out
    assert shown in Path("runs/search/report.md").read_text()
    page = Path("runs/search/report.html").read_text()
    assert shown in page
    assert f"studied.MyLoss (accepted {change['at']})" in page
    assert f"{shown} (1 of 2 results is of other code)" in page


def test_an_accepted_edit_may_be_undone_and_done_again(edited: Path) -> None:
    command = [*COMMAND, "--name", "grid"]
    assert main([*command, "--accept-code-change"]) == 0
    for weight, changes in ((1.0, 2), (2.0, 3)):
        write_loss("studied", weight)
        assert main(command) == 0
        assert len(record("grid")["code_changes"]) == changes
    write_loss("studied", 3.0)
    assert main(command) == 2


def test_a_worker_that_starts_after_an_edit_trains_nothing_and_fails_no_setting(
    edited: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("study.yaml").write_text(SEARCH)
    monkeypatch.setenv(PARENT, str(os.getppid()))
    monkeypatch.setenv(STORAGE, "journal")
    assert main([*COMMAND, "--name", "search", "--trials", "2"]) == 2
    assert "the code of studied.MyLoss" in capsys.readouterr().err
    assert len(read_results(Path("runs/search"))) == 1
    assert not any("failure" in trial.user_attrs for trial in small_studies.trials("search"))
    write_loss("studied")
    assert main([*COMMAND, "--name", "search", "--trials", "2"]) == 0
    assert len(read_results(Path("runs/search"))) == 2


@pytest.mark.slow
def test_a_result_of_other_code_is_refused_wherever_it_comes_from(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_loss("studied")
    (path,) = (p for p in Path("runs/grid/results").glob("*/0.json") if "studied" in p.read_text())
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"code": {"studied.MyLoss": "0123456789ab"}}))
    assert main([*COMMAND, "--name", "grid"]) == 2
    assert "the code of studied.MyLoss" in capsys.readouterr().err


def test_what_a_search_draws_later_is_compared_as_well(edited: Path) -> None:
    """study.json gets the code of a class that it does not know yet; other code of that class then stops the study."""
    for weight in (1.0, 2.0):
        write_loss("drawn", weight)
        study = open_study("grid")
        config = study.base
        config["model"]["init_args"]["loss"] = {"class_path": "drawn.MyLoss"}
        study.command_line.parse_config(config)
        if weight == 1.0:
            study.identity.require_same_code()
            assert "drawn.MyLoss" in record("grid")["code"]
    with pytest.raises(StudyChangedError, match=r"drawn\.MyLoss"):
        study.identity.require_same_code()
    forget("drawn")


def test_a_study_of_before_code_was_recorded_goes_on(edited: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = record("grid")
    del content["code"]
    Path("runs/grid/study.json").write_text(json.dumps(content))
    for path in Path("runs/grid/results").glob("*/0.json"):
        result = json.loads(path.read_text())
        del result["code"], result["losslab"]
        path.write_text(json.dumps(result))
    study = open_study("grid")
    study.identity.write_record({**content, "code": {"studied.MyLoss": "0123456789ab"}}, accept_code=False)
    assert "NOTICE: runs/grid has results of before code was recorded" in caplog.text
    assert record("grid")["code"] == {"studied.MyLoss": "0123456789ab"}


def open_study(name: str) -> Study:
    file = read_study(Path("study.yaml"), {})
    return Study(file, Path("runs", name), CommandLine(["--config", file.experiment], "losslab sweep"))


@pytest.mark.parametrize("searched", [True, False])
def test_a_study_that_maximised_a_loss_goes_on_unless_its_trials_were_chosen_so(edited: Path, searched: bool) -> None:
    study = open_study("new")
    declared = {"seeds": [0], "monitor": "val/loss", "direction": "maximize"}
    content = {"study": {"space": {}} if searched else {}, "experiment": {}, "data": {}, "declared": declared}
    study.identity.write_record(content | {"code": {}}, accept_code=False)
    changed = content | {"declared": declared | {"direction": "minimize"}, "code": {}}
    if not searched:
        study.identity.write_record(changed, accept_code=False)
    else:
        with pytest.raises(UserError, match=r"its trials were chosen to maximize val/loss.*another --name"):
            study.identity.write_record(changed, accept_code=False)
    assert record("new")["declared"]["direction"] == ("maximize" if searched else "minimize")


@pytest.fixture
def pictures(own_folder: Path) -> Callable[..., list[str]]:
    """Writes a study of two settings at two seeds on such pictures; returns its command."""

    def write(kind: str = "Pictures", grid: str = "model.init_args.dropout: [0.0, 0.1]") -> list[str]:
        Path("tiny.yaml").write_text(EXPERIMENT.replace("tiny_digits.TinyDigits", f"changing_pictures.{kind}"))
        arms = f"arms: {{plain: {{{LOSS}: {{class_path: losslab.losses.CrossEntropyLoss}}}}}}"
        Path("study.yaml").write_text(f"experiment: tiny.yaml\n{arms}\ngrid: {{{grid}}}\nseeds: [0, 1]\n")
        Path("shift.txt").write_text("0")
        Path("other.txt").write_text("1")
        return COMMAND

    return write


@pytest.fixture
def after_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Takes what is to be done when the first training, or population, has ended."""

    def set_action(action: Callable[[], object]) -> None:
        actions = [action]

        def finish(*_: Any) -> None:
            if actions:
                actions.pop()()

        monkeypatch.setattr("losslab.sweep.display.Display.finish_training", finish)

    return set_action


@pytest.mark.parametrize("options", [[], ["--population", "2", "--data.split_seed", "0"]], ids=["alone", "population"])
@pytest.mark.parametrize("kind", ["Pictures", pytest.param("PicturesOrNone", marks=pytest.mark.slow)])
def test_a_study_stops_when_its_images_are_gone_and_goes_on_when_they_are_back(
    pictures: Callable[..., list[str]],
    after_first: Callable[..., None],
    kind: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*pictures(kind), *options]
    after_first(Path("shift.txt").unlink)
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "the images of runs/study were pictures (SHA-256 " in told
    assert ("are now fallback (SHA-256 " if kind == "Pictures" else "cannot be loaded any more: there is no") in told
    results = len(read_results(Path("runs/study")))
    assert results == (2 if options else 1)
    assert all(trial.state != TrialState.FAIL for trial in small_studies.trials("study"))
    Path("shift.txt").write_text("0")
    assert main(command) == 0
    found = read_results(Path("runs/study"))
    assert len(found) == 4
    assert len({(result["data_name"], result["hashes"]["train"]) for result in found}) == 1


@pytest.mark.slow
def test_a_setting_whose_own_images_change_between_two_seeds_stops_the_study(
    pictures: Callable[..., list[str]], after_first: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command = pictures(grid="data.init_args.file: [other.txt]")
    after_first(lambda: Path("other.txt").write_text("2"))
    assert main(command) == 2
    assert "the images of runs/study were pictures" in capsys.readouterr().err
    assert len(read_results(Path("runs/study"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "grid"),
    [("Pictures", "data.init_args.file: [shift.txt, other.txt]"), ("Pictures", "data.init_args.val_size: [50, 60]"),
     ("Pictures", "data.init_args.imbalance: [null, 0.5]"), ("PicturesOfTheSeed", "model.init_args.dropout: [0.0]")],
)  # fmt: skip
def test_settings_and_seeds_may_have_images_of_their_own(
    pictures: Callable[..., list[str]], kind: str, grid: str
) -> None:
    pictures(kind, grid)
    study = open_study("study")
    assert main(COMMAND) == 0
    results = read_results(Path("runs/study"))
    assert len(results) == 2 * len({result["label"] for result in results})
    study.identity.require_images_of_results()


@pytest.mark.slow
def test_a_result_of_other_images_is_refused_wherever_it_comes_from(
    pictures: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = pictures(grid="model.init_args.dropout: [0.0]")
    assert main(command) == 0
    path = next(Path("runs/study/results").glob("*/1.json"))
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"data_name": "fallback", "hashes": result["hashes"] | {"train": "0" * 64}}))
    assert main(command) == 2
    assert f"were fallback (SHA-256 {'0' * 12}) and are now pictures" in capsys.readouterr().err


@pytest.mark.slow
def test_a_confirmation_is_of_the_sweeps_images(
    pictures: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pictures()) == 0
    Path("shift.txt").write_text("1")
    assert main(["confirm", "runs/study", "--seeds", "1"]) == 2
    assert "the images of runs/study were pictures" in capsys.readouterr().err
    assert not Path("runs/study/confirm/study.json").exists()


@pytest.mark.slow
def test_test_images_that_change_within_a_confirmation_are_not_read(
    pictures: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pictures()) == 0
    digits = small_studies.TinyDigits().load_test()
    others = digits._replace(labels=(digits.labels + 1) % 10)
    reads = Path("runs/test_reads.jsonl")
    monkeypatch.setattr(Pictures, "load_test", lambda self: others if reads.exists() else digits)
    assert main(["confirm", "runs/study", "--seeds", "1"]) == 2
    assert "these are other images" in capsys.readouterr().err
    assert len(reads.read_text().splitlines()) == 1
