"""The study as its folder keeps it, study.json."""

import json
from pathlib import Path

import pytest

from losslab.errors import UserError
from losslab.study import Setting, SettingResults, StudyFile, read_declared, read_study

BASELINE = {"arm": "focal", "model.init_args.loss.init_args.gamma": 0}

RECORD = """\
{
 "study": {
  "experiment": "../experiments/cnn.yaml",
  "arms": {"focal": {"model.init_args.loss": {"class_path": "losslab.losses.FocalLoss"}}},
  "grid": {"model.init_args.loss.init_args.gamma": [0, 2]},
  "seeds": [0, 1],
  "monitor": "val/f1/macro",
  "baseline": {"arm": "focal", "model.init_args.loss.init_args.gamma": 0},
  "family": ["val/precision/macro", "val/recall/macro"],
  "storage": "journal"
 },
 "experiment": {
  "seed_everything": 0,
  "model": {"class_path": "losslab.models.CNN", "init_args": {"widths": [16, 32, 64]}},
  "data": {"class_path": "losslab.data.MNISTDataModule", "init_args": {"source": "embedded"}},
  "trainer": {"max_epochs": 20}
 },
 "data": {"name": "mnist-5k", "train": "275631c185f2928a", "split": "9d890e252c2f2592"},
 "declared": {
  "seeds": [0, 1],
  "monitor": "val/f1/macro",
  "direction": "maximize",
  "baseline": {"arm": "focal", "model.init_args.loss.init_args.gamma": 0},
  "family": ["val/precision/macro", "val/recall/macro"],
  "storage": "journal",
  "tune": {}
 },
 "command": "losslab sweep --config sweeps/gamma.yaml --data.source embedded --seeds 0 1"
}
"""
"""Written before the room `study` existed."""


def test_the_record_of_an_earlier_version_is_read_and_declared_again_with_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(RECORD)
    study = read_declared(tmp_path)
    assert (study.seeds, study.monitor, study.sign, study.split) == ([0, 1], "val/f1/macro", 1, "val")
    assert study.baseline == BASELINE
    assert study.endpoints([]) == ["val/precision/macro", "val/recall/macro", "val/f1/macro"]
    assert not study.tune
    declared = json.loads(RECORD)["declared"]
    assert study.declared() == declared
    assert [*study.declared()] == [*declared]
    assert StudyFile.from_declared(study.declared()) == study


def test_seven_keys_are_declared_whatever_else_a_study_has() -> None:
    study = StudyFile("cnn.yaml", {"a": {}, "b": {}}, [0], trials=3, keep="all", population=4)
    assert [*study.declared()] == ["seeds", "monitor", "direction", "baseline", "family", "storage", "tune"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no study: there is no study.json in it"),
        (RECORD[:-9], "study.json cannot be read"),
        ('{"study": {}}', "study.json cannot be read .KeyError: 'declared'.; `losslab sweep` with the study's file"),
        (RECORD.replace('"tune"', '"tunes"'), "study.json cannot be read .TypeError: .*tunes"),
    ],
    ids=["missing", "torn", "without declared", "unknown key"],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_declared(tmp_path)


@pytest.mark.parametrize(
    ("monitor", "direction", "sign"),
    [("val/loss", "minimize", -1), ("val/ece", "minimize", -1), ("val/f1/macro", "maximize", 1)],
)
def test_the_direction_is_the_metrics_and_another_one_is_refused(
    tmp_path: Path, monitor: str, direction: str, sign: int
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"experiment: tiny.yaml\narms: {{a: {{}}, b: {{}}}}\nseeds: [0]\nmonitor: {monitor}\n")
    study = read_study(file, {})
    assert (study.direction, study.sign, study.declared()["direction"]) == (direction, sign, direction)
    assert read_study(file, {"direction": direction}) == study
    wrong = {"minimize": "maximize", "maximize": "minimize"}[direction]
    with pytest.raises(UserError, match=f"direction is {wrong}, but {monitor} is to {direction}; leave direction out"):
        read_study(file, {"direction": wrong})


def test_a_record_that_maximised_a_loss_is_read_to_minimise_it_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "study.json").write_text(RECORD.replace("val/f1/macro", "val/loss"))
    assert read_declared(tmp_path).direction == "minimize"
    (record,) = caplog.records
    assert "was run to maximize val/loss; its results are read to minimize it" in record.getMessage()


@pytest.mark.parametrize("monitor", ["val/loss", "val/acc"])
def test_a_setting_whose_mean_is_nan_is_never_the_best(monitor: str) -> None:
    def setting(*values: float) -> SettingResults:
        return SettingResults("", "a", {}, "", [0, 1], {monitor: [*values]}, [], [])

    diverged, first, second = setting(float("nan"), 0.1), setting(0.3, 0.3), setting(0.2, 0.5)
    study = StudyFile("", {}, [0, 1], monitor=monitor)
    best = study.best([diverged, first, second])
    assert best is (first if monitor == "val/loss" else second)
    assert study.best([diverged, best]) is study.best([best, diverged]) is best


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {a: {}}\ngrid: {x.y: [1, 1.0]}", r"x.y has the values \(1, 1.0\), which count as one"),
        ("arms: {a: {}}\ngrid: {x.y: [false, 0]}", r"x.y has the values \(False, 0\), which count as one"),
        (
            "arms: {a: {}}\ntrials: 2\n"
            "space: {x: {class_path: optuna.distributions.CategoricalDistribution, init_args: {choices: [1, true]}}}",
            r"x has the values \(1, True\), which count as one",
        ),
        ("arms: {a: {x.y: 1, x: {z: 2}}, b: {}}", "arm a gives x twice, by x.y and by x"),
        ("arms: {a: {x: {y: 1}, x.y: 2}, b: {}}", "arm a gives x.y twice, by x and by x.y"),
        ("arms: {a: {x.y: 1}}\ngrid: {x.y: [1, 2]}", "arm a gives x.y twice"),
        ("arms: {a: {x.y: 1}}\ntune: {x: [1, 2, 4]}", "arm a gives x twice, by x.y and by x"),
        ("arms: {a: {}, a: {x: 1}}", "line 2, column 15: a is given twice"),
        ("arms: {off: {}, b: {}}", "line 2, column 8: a key must be a string, but YAML reads off as False"),
    ],
)
def test_no_value_of_a_study_is_silently_replaced_by_another(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"experiment: tiny.yaml\n{text}\nseeds: [0]\n")
    with pytest.raises(UserError, match=message):
        read_study(file, {})


def test_a_value_within_an_arms_object_is_varied_by_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("experiment: tiny.yaml\narms: {a: {x: {y: 1, z: 2}, v.w: 3}}\ngrid: {x.y: [1, 2.0]}\nseeds: [0]\n")
    study = read_study(file, {})
    assert [Setting("a", {"x.y": value}).config(study, {}, 0)["x"] for value in (1, 2.0)] == [
        {"y": 1, "z": 2},
        {"y": 2.0, "z": 2},
    ]
