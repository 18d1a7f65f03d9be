"""Two processes train one network as one process with their batches together does, and leave one run."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.cli import main
from losslab.run import RunFolder, read_predictions

pytestmark = pytest.mark.slow  # each process imports everything anew

TESTS = Path(__file__).parents[1]

EXPERIMENT = """\
model: {class_path: losslab.models.MLP, init_args: {hidden: [16], loss: {class_path: losslab.losses.CrossEntropyLoss}}}
data: {class_path: tiny_digits.TinyDigits, init_args: {eval_batch_size: 7}}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false, precision: 64-true}
"""
TWO = ["--data.batch_size", "10", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


@pytest.fixture(autouse=True)
def experiment(own_folder: Path) -> None:
    (own_folder / "tiny.yaml").write_text(EXPERIMENT)


def start(
    words: Sequence[str], launcher: Sequence[str] = (), program: Sequence[str] = ("-m", "losslab")
) -> subprocess.Popen:
    path = os.pathsep.join([str(TESTS), *sys.path])
    command = [*(launcher or [sys.executable]), *program, *words]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, text=True, stdout=-1, stderr=-1)


def run(words: Sequence[str], launcher: Sequence[str] = ()) -> str:
    process = start(words, launcher)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Warning" not in err
    assert "It is recommended" not in err
    return out


def the_run(name: str) -> RunFolder:
    (path,) = Path("runs", name).iterdir()
    return RunFolder(path)


def weights(name: str) -> dict[str, torch.Tensor]:
    return torch.load(the_run(name).checkpoint("last"), weights_only=True)["state_dict"]


def rows(name: str) -> list[dict[str, float]]:
    with the_run(name).metrics_file.open(newline="") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_run(ours: str, theirs: str, tolerance: float) -> None:
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    assert all(a[key].dtype == torch.float64 for key in a if key.startswith("network"))
    assert max(float((a[key] - b[key]).abs().max()) for key in a) <= tolerance
    for row, other in zip(rows(ours), rows(theirs), strict=True):
        assert row == pytest.approx(other, abs=1e-6, nan_ok=True)
    (logits, labels), (others, their_labels) = (read_predictions(the_run(n).predictions_file) for n in (ours, theirs))
    assert np.array_equal(labels, their_labels)  # each image once, in the split's order
    assert np.allclose(logits, others, atol=1e-6)
    assert the_run(ours).manifest()["status"] == "finished"


def test_two_processes_are_one_with_twice_the_batch() -> None:
    assert main(["fit", "--config", "tiny.yaml", "--name", "one", "--data.batch_size", "20"]) == 0
    assert torch.load(the_run("one").checkpoint("last"), weights_only=True)["global_step"] == 20
    said = run(["fit", "--config", "tiny.yaml", "--name", "two", *TWO])
    assert said.count("validation accuracy") == 1
    assert_same_run("two", "one", 1e-8)

    assert main(["test", "--run", "runs/one"]) == 0
    assert run(["test", "--run", "runs/two"]).count("test: each class") == 1  # as configured, in two processes
    assert len(Path("runs/test_reads.jsonl").read_text().splitlines()) == 2
    one, two = (json.loads((the_run(n).path / "test" / "metrics.json").read_text())["metrics"] for n in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-6)
    assert main(["export", "--run", "runs/two"]) == 0


def test_stopped_in_the_middle_under_torchrun_it_goes_on_to_the_same_end(own_folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
    killer = ["--trainer.callbacks", "killer.Killer", "--trainer.callbacks.stop", "13"]
    words = ["fit", "--config", "tiny.yaml", *TWO, *killer]
    run([*words, "--name", "undisturbed"], torchrun)
    Path("armed").touch()
    process = start([*words, "--name", "stopped"], torchrun)
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert told.count("the same command with --ckpt_path last goes on from here") == 2
    assert the_run("stopped").manifest()["status"] == "interrupted"
    assert torch.load(the_run("stopped").checkpoint("last"), weights_only=True)["global_step"] == 13
    assert len(rows("stopped")) == 1
    run([*words, "--name", "stopped", "--ckpt_path", "last"], torchrun)
    assert_same_run("stopped", "undisturbed", 0.0)


def test_a_training_leaves_its_process_group_before_the_interpreter_closes() -> None:
    # A thread of gloo that is still there aborts a finished process now and then, and torchrun calls the job failed.
    program = """\
import atexit, sys
from torch.distributed import is_initialized
atexit.register(lambda: print(is_initialized()))  # what is registered first runs last
from losslab.cli import main
status = main(sys.argv[1:])
print(is_initialized())
sys.exit(status)
"""
    process = start(["fit", "--config", "tiny.yaml", "--trainer.strategy", "ddp"], program=["-c", program])
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.endswith("True\nFalse\n")
