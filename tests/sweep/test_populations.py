"""Trainings as populations: the same results, folders and files; and what is trained alone after all."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from small_studies import trials

from losslab.cli import main
from losslab.run import read_checkpoint, read_predictions
from losslab.study import read_results

TINY = """\
model:
  class_path: losslab.models.MLP
  init_args: {hidden: [16], loss: {class_path: losslab.losses.FocalLoss}}
data:
  class_path: tiny_digits.TinyDigits
  init_args: {batch_size: 20, split_seed: 0}
trainer: {max_epochs: 3, accelerator: cpu, precision: 64-true, enable_progress_bar: false}
"""

STUDY = """\
experiment: tiny.yaml
arms:
  focal:
    model.init_args.loss: {class_path: losslab.losses.FocalLoss}
  dice:
    model.init_args.loss: {class_path: losslab.losses.DiceLoss}
grid:
  model.init_args.optimizer.init_args.lr: [0.001, 0.01]
seeds: [0, 1]
"""


@pytest.fixture
def study(own_folder: Path) -> list[str]:
    adam = "init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}, "
    (own_folder / "tiny.yaml").write_text(TINY.replace("init_args: {hidden", adam + "hidden"))
    (own_folder / "lr.yaml").write_text(STUDY)
    return ["sweep", "--config", "lr.yaml"]


def states(name: str) -> list[TrialState]:
    return [trial.state for trial in trials(name)]


def rows(result: dict[str, Any], study: str) -> list[dict[str, str]]:
    with (Path("runs", study) / result["run"] / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_results_and_records_are_those_of_trainings_one_by_one(
    study: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two arms and two seeds: one population of eight. Folders, files, settings and metrics are the same."""
    assert main([*study, "--name", "alone", "--keep", "all"]) == 0
    assert main([*study, "--name", "together", "--keep", "all", "--population", "8"]) == 0
    alone, together = (read_results(Path("runs", name)) for name in ("alone", "together"))
    assert len(alone) == 8
    for one, other in zip(alone, together, strict=True):
        assert other["population"]["size"] == 8
        for key in (
            "label",
            "setting",
            "setting_hash",
            "order",
            "seed",
            "run",
            "data_name",
            "hashes",
            "device",
            "float32",
        ):
            assert one[key] == other[key]
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-7)
        for row, same in zip(rows(one, "alone"), rows(other, "together"), strict=True):
            assert {key: float(value) for key, value in row.items() if value} == pytest.approx(
                {key: float(value) for key, value in same.items() if value}, abs=1e-6
            )
        folders = [Path("runs", name, result["run"]) for name, result in (("alone", one), ("together", other))]
        files = [{path.name for path in folder.rglob("*") if path.is_file()} for folder in folders]
        assert files[0] - files[1] == {"best.ckpt"}
        manifest = json.loads((folders[1] / "manifest.json").read_text())
        assert manifest["status"] == "finished"
        checkpoints = [read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in folders]
        kept = {key: checkpoints[0][key] for key in checkpoints[1]}  # without optimiser and callbacks
        torch.save(kept | {"epoch_so_far": checkpoints[1]["epoch_so_far"]}, "solo.ckpt")
        member_size = (folders[1] / "checkpoints" / "last.ckpt").stat().st_size
        assert abs(member_size - Path("solo.ckpt").stat().st_size) < 500
    assert sorted(r["population"]["place"] for r in together) == list(range(8))
    assert states("together") == states("alone") == [TrialState.COMPLETE] * 8

    capsys.readouterr()
    assert main(["test", "--run", str(Path("runs/together", together[0]["run"]))]) == 0
    assert main(["validate", "--run", str(Path("runs/together", together[0]["run"]))]) == 0
    metrics = json.loads((Path("runs/together", together[0]["run"]) / "validate" / "metrics.json").read_text())[
        "metrics"
    ]
    assert metrics["val/acc"] == pytest.approx(together[0]["metrics"]["val/acc"])


def check_that_the_winner_is_the_same_alone(model: str, data: str, epochs: int, folder: Path) -> None:
    """To 0.3 points of validation accuracy and 99 % of the predictions."""
    (folder / "tiny.yaml").write_text(
        f"model: {{class_path: losslab.models.{model}, "
        "optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}}}\n"
        f"data: {{class_path: losslab.data.MNISTDataModule, init_args: {data}}}\n"
        f"trainer: {{max_epochs: {epochs}, accelerator: cpu, enable_progress_bar: false}}\n"
    )
    one_arm = STUDY.split("  dice")[0] + "grid:" + STUDY.split("grid:")[1]
    (folder / "lr.yaml").write_text(one_arm.replace("0.001", "0.003"))
    assert main(["sweep", "--config", "lr.yaml", "--population", "4"]) == 0
    winner = max(read_results(Path("runs/lr")), key=lambda result: result["metrics"]["val/acc"])
    assert winner["population"]["size"] == 4
    run = Path("runs/lr") / winner["run"]
    assert main(["fit", "--config", str(run / "config.yaml"), "--name", "alone"]) == 0
    (alone,) = Path("runs/alone").iterdir()
    together, solo = (read_predictions(path / "predictions.npz")[0].argmax(1) for path in (run, alone))
    labels = read_predictions(alone / "predictions.npz")[1]
    assert (solo == labels).mean() > 0.85
    assert abs((together == labels).mean() - (solo == labels).mean()) <= 0.003
    assert (together == solo).mean() >= 0.99


def test_the_winner_retrained_alone_is_the_same_in_float32(own_folder: Path) -> None:
    check_that_the_winner_is_the_same_alone(
        "MLP, init_args: {hidden: [32]", "{source: embedded, batch_size: 50, split_seed: 0}", 3, own_folder
    )


@pytest.mark.slow
def test_with_batch_norm_too(own_folder: Path, real_mnist: Path) -> None:
    """Rounding moves its weights further, which shows on 500 images; so this one is on MNIST's 5,000."""
    check_that_the_winner_is_the_same_alone(
        "CNN, init_args: {dropout: 0.0", f"{{root: {real_mnist}, split_seed: 0}}", 1, own_folder
    )


def test_what_is_there_is_not_trained_again(study: list[str]) -> None:
    assert main([*study, "--population", "3"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs/lr/results").rglob("*.json")}
    assert len(before) == 8
    gone = sorted(before)[0]
    gone.unlink()
    assert main([*study, "--population", "8"]) == 0
    after = {path: path.stat().st_mtime_ns for path in Path("runs/lr/results").rglob("*.json")}
    assert {path for path in before if path not in after or before[path] != after[path]} <= {gone}


def test_a_setting_that_becomes_nan_fails_alone(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("lr.yaml").write_text(STUDY.replace("[0.001, 0.01]", "[0.001, 1.0e+300]").replace("Dice", "CrossEntropy"))
    assert main([*study, "--population", "8"]) == 0
    printed = capsys.readouterr().out
    assert "focal lr=1e+300 seed=0 failed: NonFiniteLossError: the loss FocalLoss(gamma=2) became" in printed
    assert states("lr").count(TrialState.FAIL) == 4
    assert {r["label"] for r in read_results(Path("runs/lr"))} == {"focal lr=0.001", "dice lr=0.001"}
    failed = [json.loads(path.read_text()) for path in Path("runs/lr/runs").rglob("manifest.json")]
    assert sorted(m["status"] for m in failed) == ["failed"] * 4 + ["finished"] * 4


def test_a_pruner_stops_all_seeds_of_a_setting(study: list[str]) -> None:
    pruner = "pruner: {class_path: optuna.pruners.ThresholdPruner, init_args: {lower: 0.15, n_warmup_steps: 1}}\n"
    one_arm = STUDY.split("  dice")[0] + "grid:" + STUDY.split("grid:")[1]
    Path("lr.yaml").write_text(one_arm.replace("[0.001, 0.01]", "[1.0e-9, 0.01]") + pruner)
    assert main([*study, "--population", "8"]) == 0
    assert sorted(state.name for state in states("lr")) == ["COMPLETE", "PRUNED"]
    assert {r["label"] for r in read_results(Path("runs/lr"))} == {"lr=0.01"}


def test_a_search_is_asked_for_a_population_at_a_time(study: list[str]) -> None:
    space = "space: {model.init_args.loss.init_args.gamma: {class_path: optuna.distributions.FloatDistribution, "
    Path("lr.yaml").write_text(
        STUDY.split("  dice")[0]
        + space
        + "init_args: {low: 0.0, high: 5.0}}}\ntrials: 5\nseeds: [0, 1]\npopulation: 4\n"
    )
    assert main(study) == 0
    results = read_results(Path("runs/lr"))
    assert len(results) == 10
    assert sorted(r["population"]["size"] for r in results) == [2, 2, *[4] * 8]


def test_a_network_that_cannot_be_vectorised_is_trained_alone(
    study: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "branching.py").write_text(
        "from losslab.models import MLP\n\n\n"
        "class Branching(MLP):\n"
        "    def forward(self, images):\n"
        "        return self.network(images) if images.mean() < 9 else self.network(-images)\n"
    )
    Path("tiny.yaml").write_text(Path("tiny.yaml").read_text().replace("losslab.models.MLP", "branching.Branching"))
    assert main([*study, "--population", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("8 trainings as one: RuntimeError: ") == 1
    assert "Each is trained alone." in printed
    assert ["population" in r for r in read_results(Path("runs/lr"))] == [False] * 8


@pytest.mark.parametrize("population", ["0", "-1"])
def test_a_population_of_none_is_refused(study: list[str], population: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*study, "--population", population]) == 2
    assert f"population must be a number >= 1 or auto, got {population}" in capsys.readouterr().err


def test_a_word_that_is_no_population_is_refused(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*study, "--population", "many"]) == 2
    assert "--population" in capsys.readouterr().err
