"""`losslab plot-loss` draws any loss of one image, and says what is wrong with the rest."""

import json
import re
from pathlib import Path

import pytest

from losslab.cli import main


def test_values_of_one_argument_are_a_curve_each() -> None:
    assert main(["plot-loss", "FocalLoss", "--gamma", "0", "1", "2", "5"]) == 0
    page = Path("runs/plot-loss/FocalLoss.html").read_text()
    content = json.loads(re.search(r'id="figure-loss">(.*?)</script>', page)[1])  # type: ignore[index]
    assert {trace["name"] for trace in content["traces"]} == {f"gamma = {g}" for g in (0, 1, 2, 5)}
    assert "losslab plot-loss FocalLoss --gamma 0 1 2 5" in page


def test_losses_of_others_and_a_file_of_ones_own() -> None:
    Path("loss_to_plot.py").write_text("import torch\nclass Mine(torch.nn.CrossEntropyLoss):\n    pass\n")
    assert main(["plot-loss", "loss_to_plot.Mine", "--label_smoothing", "0.1", "--out", "mine.html"]) == 0
    assert "label_smoothing = 0.1" in Path("mine.html").read_text()
    assert main(["plot-loss", "DiceLoss"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FocaLoss"], "there is no loss 'FocaLoss'; did you mean FocalLoss?"),
        (["nowhere.Loss"], "there is no module 'nowhere'"),
        (["FocalLoss", "--gama", "1"], "FocalLoss has no argument 'gama'; did you mean gamma?"),
        (["FocalLoss", "--gamma", "-1"], "gamma must be >= 0"),
        (["FocalLoss", "2"], "unexpected '2'"),
        (["FocalLoss", "--gamma"], "--gamma needs a value"),
        (["TverskyLoss", "--alpha", "1", "2", "--beta", "1", "2"], "one argument may have several values"),
        (["LogitAdjustedLoss"], "needs the classes' frequencies"),
        (["dice_threshold"], "no class of losses"),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot-loss", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot-loss"]) == main(["plot-loss", "--help"]) == 0
    assert "losslab plot-loss FocalLoss --gamma 0 1 2 5" in capsys.readouterr().out
