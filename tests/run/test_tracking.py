"""Trackers get every metric and the final tables; one that raises or hangs does not disturb the training."""

import csv
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import losslab.run.tracking as tracking
from losslab.cli import main
from losslab.run import RunFolder, read_predictions

BAD_LOGGER = """\
import time
from pathlib import Path
from lightning.pytorch.loggers import Logger

class BadLogger(Logger):
    '''Fails as told at the named call, from the second one of that name on.'''

    def __init__(self, call: str, hang: bool = False):
        super().__init__()
        self.call, self.hang, self.count = call, hang, 0

    def note(self, call):
        with Path('calls').open('a') as file:
            file.write(call + chr(10))
        if call == self.call:
            if self.hang:
                time.sleep(1000)
            raise ConnectionError('the server is gone')

    name = version = 'bad'

    @property
    def experiment(self):
        self.note('experiment')
        return object()

    def log_metrics(self, metrics, step=None):
        self.note('log_metrics')

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def save(self):
        self.note('save')

    def finalize(self, status):
        self.note('finalize')
"""


@pytest.fixture
def bad_logger(own_folder: Path) -> None:
    (own_folder / "bad_logger.py").write_text(BAD_LOGGER)


def files(name: str) -> dict[str, bytes]:
    (run,) = Path("runs", name).iterdir()
    folder = RunFolder(run)
    assert folder.manifest()["status"] == "finished"
    assert folder.checkpoint("last").is_file()
    return {file.name: file.read_bytes() for file in (folder.metrics_file, folder.predictions_file)}


@pytest.mark.usefixtures("bad_logger")
@pytest.mark.parametrize("call", ["experiment", "log_metrics", "save", "finalize"])
@pytest.mark.parametrize("hang", [False, True])
def test_the_training_goes_on(
    tiny_mlp: list[str],
    call: str,
    hang: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.3)
    assert main(["fit", *tiny_mlp, "--name", "undisturbed"]) == 0
    logger = ["--trainer.logger", "bad_logger.BadLogger", "--trainer.logger.call", call]
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="losslab"):
        assert main(["fit", *tiny_mlp, "--name", "bad", *logger, "--trainer.logger.hang", str(hang).lower()]) == 0
    assert time.monotonic() - began < 20
    told = [record.getMessage() for record in caplog.records if "BadLogger" in record.getMessage()]
    reason = "no answer for 0 s" if hang else "ConnectionError: the server is gone"
    assert told == [
        f"NOTICE: BadLogger failed ({reason}). The training goes on without it; the run's own records are complete."
    ]
    assert files("bad") == files("undisturbed")
    calls = Path("calls").read_text().split()
    assert calls[-1] == call  # the last one: then it is left alone
    assert calls.count(call) == 1


@pytest.mark.usefixtures("bad_logger")
def test_a_tracker_that_works_hears_everything(tiny_mlp: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fit", *tiny_mlp, "--trainer.logger", "bad_logger.BadLogger", "--trainer.logger.call", "none"]) == 0
    calls = Path("calls").read_text().split()
    assert calls.count("log_metrics") >= 2
    assert calls[-1] == "finalize"
    assert "failed" not in caplog.text


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(own_folder / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def uses_wandb(test: Any) -> Any:
    """Mark a test that logs to W&B, offline; warnings of its own code and its dependencies are ignored."""
    for mark in (
        pytest.mark.usefixtures("offline_wandb"),
        pytest.mark.filterwarnings("ignore::Warning:wandb"),
        pytest.mark.filterwarnings("ignore::Warning:pydantic"),
    ):
        test = mark(test)
    return test


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


@uses_wandb
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


@uses_wandb
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


@uses_wandb
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


@uses_wandb
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


STUDY = """\
experiment: tiny.yaml
arms: {focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}}
grid: {model.init_args.loss.init_args.gamma: [0, 2]}
seeds: [0, 1]
"""


@uses_wandb
def test_wandb_gets_one_finished_offline_run_a_training(tiny_mlp: list[str], own_folder: Path) -> None:
    (own_folder / "gamma.yaml").write_text(STUDY)
    assert main(["sweep", "--config", "gamma.yaml", "--trainer.logger", "WandbLogger"]) == 0
    files = sorted(Path("runs/gamma/runs").rglob("run-*.wandb"))
    assert len(files) == 4
    assert __import__("wandb").run is None
    seen = [json.dumps(json.loads(inspect(file, "--summary"))) for file in files]
    assert all('"exit_code": 0' in text for text in seen), seen[0][:2000]
    for gamma in (0, 2):
        for seed in (0, 1):
            assert sum(f"gamma={gamma} seed={seed}" in text for text in seen) == 1
    assert all("val/recall/3" in text for text in seen)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")  # its generated protobuf code
def test_tensorboard_by_configuration_alone(tiny_mlp: list[str]) -> None:
    pytest.importorskip("tensorboard")
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "."]
    assert main(["fit", *tiny_mlp, *logger]) == 0
    (events,) = Path("runs/tiny").rglob("events.out.tfevents.*")
    assert events.stat().st_size > 1000
    assert list(Path("runs/tiny").glob("*/metrics.csv"))
