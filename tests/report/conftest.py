"""Real studies, run once for all tests of the report."""

import contextlib
from pathlib import Path

import pytest
import small_studies

from losslab.cli import main


@pytest.fixture(scope="session")
def gamma_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three values of gamma at six seeds."""
    return small_studies.run_study(tmp_path_factory.mktemp("gamma"), "gamma", small_studies.GAMMA)


@pytest.fixture(scope="session")
def search_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search, some of whose trials were pruned and some of which failed."""
    return small_studies.run_study(tmp_path_factory.mktemp("search"), "search", small_studies.SEARCH)


@pytest.fixture(scope="session")
def single_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One setting at one seed."""
    return small_studies.run_study(tmp_path_factory.mktemp("single"), "single", small_studies.SINGLE)


@pytest.fixture(scope="session")
def hostile_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose names try to be markup and script."""
    experiment = small_studies.EXPERIMENT.replace("tiny_digits.TinyDigits", "small_studies.HostileDigits")
    name = 'hostile <i>name & "quotes"'
    return small_studies.run_study(
        tmp_path_factory.mktemp("hostile"), name, small_studies.HOSTILE, experiment=experiment
    )


@pytest.fixture(scope="session")
def tuned_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two losses, each tuned by each of two seeds; confirmed on the test images."""
    dice = "  dice: {model.init_args.loss: {class_path: losslab.losses.DiceLoss}}\n"
    study = small_studies.TUNED.replace(dice, "").replace("[0.0005, 0.001, 0.002]", "[0.002, 0.004, 0.008]")
    folder = tmp_path_factory.mktemp("tuned")
    made = small_studies.run_study(folder, "tuned", study, experiment=small_studies.TUNED_EXPERIMENT)
    with contextlib.chdir(folder):
        assert main(["confirm", "runs/tuned", "--top", "all"]) == 0
    return made
