"""Before a study begins it says what it will take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from losslab.sweep.command import _announce


@pytest.mark.parametrize(("stage", "megabytes"), [("search", 30), ("confirm", 78)])
def test_the_disk_space_is_that_of_all_predictions(
    stage: str, megabytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 trainings of 60 kB, with 48 bytes an image: 5,000 for validation and, when confirmed, 10,000 to test."""
    images = {"val": SimpleNamespace(labels=range(5_000)), "test": SimpleNamespace(labels=range(10_000))}
    data: Any = SimpleNamespace(
        data_name="mnist", num_classes=10, split=images.__getitem__, load_test=lambda: images["test"]
    )
    file: Any = SimpleNamespace(is_search=False, seeds=[0], keep="best", stage=stage)
    study: Any = SimpleNamespace(total_trainings=lambda: 100, file=file, folder=Path("runs/gamma"))
    _announce(study, 0, 0, data)
    assert f"100 trainings, 0 of them done; up to {megabytes} MB" in capsys.readouterr().out
