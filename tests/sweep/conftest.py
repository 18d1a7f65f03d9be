"""A study that tunes, run once for all tests that look at it."""

import shutil
from pathlib import Path

import pytest
import small_studies


@pytest.fixture(scope="session")
def tuned_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a tuned learning rate; copied by who changes it."""
    return small_studies.run_study(
        tmp_path_factory.mktemp("tuned"), "tuned", small_studies.TUNED, experiment=small_studies.TUNED_EXPERIMENT
    )


@pytest.fixture
def study(tuned_study: Path, own_folder: Path) -> Path:
    """A copy of its folder, in the current one."""
    shutil.copytree(tuned_study.parent.parent, own_folder, dirs_exist_ok=True)
    return Path("runs/tuned")
