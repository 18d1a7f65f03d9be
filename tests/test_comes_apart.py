"""losslab works without the rooms for studies; its command line then neither lists nor runs their commands."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OF_RUNS = ("fit", "validate", "test", "predict", "export", "summary", "runs")
OF_STUDIES = ("sweep", "confirm", "report", "plot-loss")

Python = Callable[..., subprocess.CompletedProcess[str]]


def copy_without(folder: Path, *rooms: str) -> Python:
    """Copy losslab without these rooms, and return a function that runs Python on the copy."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=ignore)
    shutil.copytree(REPOSITORY / "experiments", folder / "experiments", ignore=ignore)
    for room in rooms:
        shutil.rmtree(folder / "src" / "losslab" / room)
    path = os.pathsep.join([str(folder / "src"), str(REPOSITORY / "tests")])

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return python


@pytest.mark.parametrize("rooms", [("report", "sweep", "study"), ("report", "sweep")], ids=" ".join)
def test_commands_without_their_room_are_not_listed_and_are_refused_in_one_line(
    own_folder: Path, rooms: tuple[str, ...]
) -> None:
    python = copy_without(own_folder, *rooms)
    shown = python("-m", "losslab", "--help").stdout
    listed = [
        line.split()[0] for line in shown.split("[arguments]")[1].split("losslab COMMAND")[0].splitlines() if line
    ]
    assert listed == list(OF_RUNS)
    assert "losslab fit --config" in shown
    assert "losslab sweep" not in shown
    missing = "study" if "study" in rooms else "report"
    for command in OF_STUDIES:
        refused = python("-m", "losslab", command, "--help")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"losslab {command}: error: ")
        assert f"{own_folder}/src/losslab/{missing}, which is missing" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert "did you mean" not in python("-m", "losslab", "swep").stderr


def test_a_run_is_trained_evaluated_and_exported_without_the_rooms_for_studies(own_folder: Path) -> None:
    """In one process, since each would import torch and Lightning anew."""
    pytest.importorskip("onnxscript")
    python = copy_without(own_folder, "report", "sweep", "study")
    experiment = ["--config", "experiments/mlp.yaml", "--data", "tiny_digits.TinyDigits"]
    quick = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    outputs = {
        ("summary", *experiment): "Trainable parameters: 7,960",
        ("fit", *experiment, *quick, "--name", "mine"): "validation accuracy",
        ("validate", "--run", "runs/mine"): "/validate",
        ("test", "--run", "runs/mine"): "/test",
        ("predict", "--run", "runs/mine"): "/predict",
        ("export", "--run", "runs/mine"): "model.onnx, with a README.md",
    }
    (own_folder / "all_commands.py").write_text(
        "import losslab.cli\n"
        "for words in " + repr(list(outputs)) + ":\n"
        "    print('##', losslab.cli.main(words), losslab.cli.__file__)\n"
    )
    done = python("all_commands.py")
    printed = done.stdout.split(f"## 0 {own_folder}/src/losslab/cli.py\n")
    assert len(printed) == len(outputs) + 1, done.stdout + done.stderr
    assert all(output in text for output, text in zip(outputs.values(), printed, strict=False))
    listed = python("-m", "losslab", "runs")
    assert listed.returncode == 0, listed.stderr
    assert "tiny-digits" in listed.stdout


def test_runs_are_listed_without_importing_torch_or_lightning() -> None:
    code = (
        "from losslab.cli import main; import sys; main(['runs']); assert not {'torch', 'lightning'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing in runs/ yet" in done.stdout
