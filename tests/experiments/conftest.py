"""A study whose seeds tune, swept, confirmed and kept once, for all tests that look at it."""

import contextlib
import shutil
from pathlib import Path

import pytest
import small_studies
from results.kept import keep, kept_file
from results.summaries import KeptStudy, read_kept_study

from losslab.cli import main

TUNED = """\
experiment: tiny.yaml
arms:
  cross-entropy: {model.init_args.loss: {class_path: losslab.losses.CrossEntropyLoss}}
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
tune:
  model.init_args.optimizer.init_args.lr: {start: [0.01, 0.02, 0.04]}
seeds: [0, 1]
baseline: {arm: cross-entropy}
"""
EXPERIMENT = small_studies.EXPERIMENT.replace(
    "{hidden: [16],", "{hidden: [16], optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.002}},"
)
NAME = "focal-balanced"
IMBALANCE = ["--data.imbalance", "0.2"]


@pytest.fixture
def sweep_command() -> list[str]:
    """The command line of the study's sweep."""
    return ["sweep", "--config", "study.yaml", "--name", NAME, *IMBALANCE]


@pytest.fixture(scope="session")
def confirm_command() -> list[str]:
    """The command line of its confirmation."""
    return ["confirm", f"runs/{NAME}", "--top", "all"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, confirm_command: list[str]) -> Path:
    """A folder with a confirmed study, and its kept file in kept/."""
    folder = tmp_path_factory.mktemp("finished")
    study = small_studies.run_study(folder, NAME, TUNED, *IMBALANCE, experiment=EXPERIMENT)
    with contextlib.chdir(folder):
        assert main(confirm_command) == 0
        keep(study, folder / "kept")
    return folder


@pytest.fixture
def study(finished: Path) -> KeptStudy:
    """The study in the kept file."""
    read = read_kept_study(kept_file(finished / "kept", NAME))
    assert read is not None
    return read


@pytest.fixture
def copied(finished: Path, own_folder: Path) -> Path:
    """The study and its kept file, in the current folder."""
    shutil.copytree(finished, own_folder, dirs_exist_ok=True)
    return Path("runs") / NAME
