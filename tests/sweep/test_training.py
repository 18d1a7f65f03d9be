"""A study takes no training that was cut short for a result, and what it takes is of the weights that count."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_studies import EXPERIMENT

from losslab.cli import main
from losslab.run import RunFolder
from losslab.study import read_results
from losslab.sweep.training import Pruning

STUDY = """\
experiment: tiny.yaml
arms: {focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}}
grid: {model.init_args.loss.init_args.gamma: [0, 2]}
seeds: [0]
"""
EMA = "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.5}}]"


@pytest.fixture
def sweep(own_folder: Path) -> list[str]:
    (own_folder / "tiny.yaml").write_text(EXPERIMENT)
    (own_folder / "one.yaml").write_text(STUDY)
    return ["sweep", "--config", "one.yaml"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fast_dev_run: true", "trainer.fast_dev_run trains a few batches"),
        ("limit_val_batches: 0", "trainer.limit_val_batches must be > 0, got 0"),
        ("max_epochs: -1, max_time: 00:00:01:00", "the training never ends"),
    ],
)
def test_a_study_without_results_to_expect_is_refused_before_training(
    sweep: list[str], setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        Path("tiny.yaml").read_text().replace("max_epochs: 2, ", "" if "max_epochs" in setting else "max_epochs: 2, ")
    )
    Path("tiny.yaml").write_text(text.replace("trainer: {", f"trainer: {{{setting}, "))
    assert main(sweep) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_validation_after_the_fit_is_not_reported_to_the_pruner() -> None:
    reported: list[tuple[float, int]] = []
    trial: Any = SimpleNamespace(report=lambda value, step: reported.append((value, step)), should_prune=lambda: False)
    pruning = Pruning(trial, "val/acc")
    for epoch, function in ((0, "fit"), (1, "fit"), (2, "validate")):
        trainer: Any = SimpleNamespace(
            current_epoch=epoch, max_epochs=2, callback_metrics={"val/acc": 0.5}, state=SimpleNamespace(fn=function)
        )
        pruning.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert reported == [(0.5, 0), (0.5, 1)]


def test_a_result_says_how_far_its_training_was_limited_and_a_study_on_another_split_is_another(
    sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*sweep, "--trainer.limit_train_batches", "1"]) == 0
    assert [result["conditions"] for result in read_results(Path("runs/one"))] == [{"limit_train_batches": 1}] * 2
    assert "limited: limit_train_batches=1" in capsys.readouterr().out
    file = Path("runs/one/study.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"data": record["data"] | {"split": "0" * 64}}))
    assert main([*sweep, "--trainer.limit_train_batches", "1"]) == 2
    assert "holds a study that differs: data.split: 0000" in capsys.readouterr().err


def test_a_training_ended_by_max_time_is_a_failure_with_the_reason(
    sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("tiny.yaml").read_text().replace("max_epochs: 2", "max_epochs: 1000, max_time: 00:00:00:00")
    Path("tiny.yaml").write_text(text)
    assert main(sweep) != 0
    assert "the training is partial (max_time)" in capsys.readouterr().out
    assert read_results(Path("runs/one")) == []


@pytest.mark.slow
def test_a_result_with_averaged_weights_is_of_the_averages(sweep: list[str]) -> None:
    Path("tiny.yaml").write_text(
        Path("tiny.yaml").read_text().replace("max_epochs: 2", f"max_epochs: 2, callbacks: {EMA}")
    )
    assert main([*sweep, "--population", "2"]) == 0
    for result in read_results(Path("runs/one")):
        run = RunFolder(Path("runs/one", result["run"]))
        assert "population" not in result
        if (run.checkpoints / "last.ckpt").is_file():  # of the best one
            assert main(["validate", "--run", str(run.path)]) == 0
            metrics = json.loads((run.path / "validate" / "metrics.json").read_text())["metrics"]
            assert {key: result["metrics"][key] for key in metrics} == pytest.approx(metrics, abs=1e-5)
            break
    else:
        raise AssertionError("no checkpoint is left")
