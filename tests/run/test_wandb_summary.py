"""What W&B gets: exactly the metrics of metrics.csv, the configuration, and the summary, of every training."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from losslab.cli import main
from losslab.run.predictions import read_predictions

pytest.importorskip("wandb")
pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:wandb"),  # of wandb's own code: its dependencies' deprecations
    pytest.mark.filterwarnings("ignore::Warning:pydantic"),
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(own_folder / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def inspect(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def history(file: Path) -> dict[int, dict[str, float]]:
    """What an offline run holds of each epoch: metrics by key."""
    epochs: dict[int, dict[str, float]] = {}
    for line in inspect(file).splitlines():
        record: dict[str, Any] = json.loads(line)
        if record.get("type") == "history":
            item = record["history"]["item"]
            metrics = {key: value for key, value in item.items() if key.startswith(("val/", "train/"))}
            if metrics:
                epochs.setdefault(int(item["epoch"]), {}).update(metrics)
    return epochs


@pytest.mark.parametrize("population", [[], ["--population", "4"]])
def test_offline_runs_hold_exactly_the_metrics_of_metrics_csv(tiny_mlp: list[str], population: list[str]) -> None:
    Path("gamma.yaml").write_text(
        "experiment: tiny.yaml\n"
        "arms: {focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}}\n"
        "grid: {model.init_args.loss.init_args.gamma: [0, 2]}\nseeds: [0, 1]\n"
    )
    assert main(["sweep", "--config", "gamma.yaml", "--trainer.logger", "WandbLogger", *population]) == 0
    runs = sorted(Path("runs/gamma/runs").glob("*/seed-*"))
    assert len(runs) == 4
    for run in runs:
        (file,) = run.rglob("run-*.wandb")
        with (run / "metrics.csv").open(newline="") as rows:
            recorded = {
                int(row["epoch"]): {k: float(v) for k, v in row.items() if k not in ("epoch", "step") and v}
                for row in csv.DictReader(rows)
            }
        seen = history(file)
        assert {epoch: set(metrics) for epoch, metrics in seen.items()} == {e: set(m) for e, m in recorded.items()}
        for epoch, metrics in recorded.items():
            assert seen[epoch] == pytest.approx(metrics, rel=1e-6)


def test_a_run_says_who_it_is_and_ends_with_its_summary(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.logger", "WandbLogger", "--seed_everything", "3"]) == 0
    (file,) = Path("runs").rglob("run-*.wandb")
    shown = json.loads(inspect(file, "--summary"))
    assert (shown["state"], shown["exit_code"]) == ("finished", 0)
    config = shown["config"]
    assert (config["loss"], config["gamma"], config["architecture"], config["seed"]) == ("FocalLoss", 1.5, "MLP", 3)
    assert {"config_hash", "split_hash", "train_hash", "setting_hash"} <= set(config)
    assert config["model.init_args.loss.init_args.gamma"] == 1.5
    run = file.parents[2]
    logits, labels = read_predictions(run / "predictions.npz")
    wrong = int((logits.argmax(axis=1) != labels).sum())
    assert len(shown["summary"]["misclassified"]["captions"]) == min(50, wrong) > 0
    assert shown["summary"]["per_class"]["nrows"] == 10
    table = json.loads(next(file.parent.rglob("per_class*.table.json")).read_text())
    recall = {row[0]: row[2] for row in table["data"]}
    with (run / "metrics.csv").open(newline="") as rows:
        last = list(csv.DictReader(rows))[-1]
    assert recall == pytest.approx({str(digit): float(last[f"val/recall/{digit}"]) for digit in range(10)})
    assert shown["summary"]["confusion_table"]["nrows"] == 100


def test_a_test_is_a_run_of_its_own_with_the_tests_metrics_and_mistakes(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.logger", "WandbLogger", "--name", "mine"]) == 0
    assert main(["test", "--run", "runs/mine"]) == 0
    (run,) = Path("runs/mine").iterdir()
    (file,) = (run / "test").rglob("run-*.wandb")
    assert len(list(run.rglob("run-*.wandb"))) == 2
    assert '"job_type":"test"' in inspect(file).replace(" ", "")
    shown = json.loads(inspect(file, "--summary"))
    assert (shown["state"], shown["config"]["loss"]) == ("finished", "FocalLoss")
    measured = json.loads((run / "test" / "metrics.json").read_text())["metrics"]
    assert {key: shown["summary"][key] for key in measured} == pytest.approx(measured, rel=1e-6)
    logits, labels = read_predictions(run / "test" / "predictions.npz")
    wrong = int((logits.argmax(axis=1) != labels).sum())
    assert len(shown["summary"]["misclassified"]["captions"]) == min(50, wrong)


def test_the_trainings_of_a_confirmation_say_so(tiny_mlp: list[str]) -> None:
    Path("gamma.yaml").write_text(
        "experiment: tiny.yaml\narms: {focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}}\n"
        "grid: {model.init_args.loss.init_args.gamma: [0, 2]}\nseeds: [0]\n"
    )
    assert main(["sweep", "--config", "gamma.yaml"]) == 0
    command = ["confirm", "runs/gamma", "--top", "1", "--seeds", "1", "--trainer.logger", "WandbLogger"]
    assert main(command) == 0
    told = [inspect(file).replace(" ", "") for file in Path("runs").rglob("run-*.wandb")]
    assert len(told) == 4
    assert sum('"job_type":"confirm"' in text for text in told) == 2
    assert sum('"job_type":"test"' in text for text in told) == 2
    assert all('"gamma/confirm"' in text for text in told)
