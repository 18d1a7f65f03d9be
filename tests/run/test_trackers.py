"""Loggers come from the configuration; each training is a run of its own, and is closed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from losslab.cli import main

wandb = pytest.importorskip("wandb")

STUDY = """\
experiment: tiny.yaml
arms: {focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}}
grid: {model.init_args.loss.init_args.gamma: [0, 2]}
seeds: [0, 1]
"""


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(own_folder / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def read_offline_run(file: Path) -> dict:
    """The run's own record, by W&B's reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(shown)


@pytest.mark.usefixtures("no_key")
@pytest.mark.filterwarnings("ignore::Warning:wandb")  # of wandb's own code: its dependencies' deprecations
@pytest.mark.filterwarnings("ignore::Warning:pydantic")
def test_wandb_gets_one_finished_offline_run_a_training(tiny_mlp: list[str], own_folder: Path) -> None:
    (own_folder / "gamma.yaml").write_text(STUDY)
    assert main(["sweep", "--config", "gamma.yaml", "--trainer.logger", "WandbLogger"]) == 0
    files = sorted(Path("runs/gamma/runs").rglob("run-*.wandb"))
    assert len(files) == 4
    assert wandb.run is None
    seen = [json.dumps(read_offline_run(file)) for file in files]
    assert all('"exit_code": 0' in text or '"exitCode": 0' in text or '"exit_code":0' in text for text in seen), seen[
        0
    ][:2000]
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
