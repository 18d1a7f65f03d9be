"""The study as its folder keeps it, study.json."""

import json
from pathlib import Path

import pytest

from losslab.errors import UserError
from losslab.study import StudyFile, read_declared

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
