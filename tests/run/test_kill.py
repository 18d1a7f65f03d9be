"""A fit killed at any moment goes on to the weights and rows that it would have had."""

import json
import signal
from pathlib import Path

import background
import torch

from losslab.cli import main

EPOCHS = 2  # of ten steps


def the_run(name: str) -> Path:
    (run,) = Path("runs", name).iterdir()
    return run


def everything(run: Path) -> dict:
    """What a fit leaves that another one of the same configuration must leave, too."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {
        "rows": (run / "metrics.csv").read_text(),
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "random": checkpoint["callbacks"]["Records"],
        "step": checkpoint["global_step"],
        "best": torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"],
        "predictions": (run / "predictions.npz").read_bytes(),
        "status": json.loads((run / "manifest.json").read_text())["status"],
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def kill_and_go_on(tiny_mlp: list[str], folder: Path, moment: str, value: int) -> None:
    """The run `undisturbed` is made where there is none yet: an unarmed killer does nothing."""
    killer = ["--trainer.callbacks", "killer.Killer", f"--trainer.callbacks.{moment}", str(value)]
    words = ["fit", *tiny_mlp, "--trainer.max_epochs", str(EPOCHS), *killer]
    if not Path("runs/undisturbed").exists():
        assert main([*words, "--name", "undisturbed"]) == 0

    name = f"killed-{moment}-{value}"
    Path("armed").touch()
    process = background.start(folder, [*words, "--name", name])
    process.join(150)
    assert process.exitcode == -signal.SIGKILL
    assert main([*words, "--name", name, "--ckpt_path", "last"]) == 0
    ours, theirs = everything(the_run(name)), everything(the_run("undisturbed"))
    assert [key for key in theirs if not same(ours[key], theirs[key])] == []
    assert list(the_run(name).rglob("*.tmp")) == []


def test_between_writes(tiny_mlp: list[str], own_folder: Path) -> None:
    for moment, value in (("step", 1), ("step", 10), ("step", 13), ("step", 20), ("validation", 1)):
        kill_and_go_on(tiny_mlp, own_folder, moment, value)


def test_in_the_middle_of_each_write(tiny_mlp: list[str], own_folder: Path) -> None:
    hit = []
    for number in range(1, 20):
        kill_and_go_on(tiny_mlp, own_folder, "write", number)
        hit.append(Path("killed_while_writing").read_text().split(".")[1])
        if hit[-2:] == ["last", "manifest"]:
            break
    counts = {name: hit.count(name) for name in ("metrics", "last", "predictions", "manifest")}
    assert counts == {"metrics": EPOCHS, "last": EPOCHS, "predictions": 1, "manifest": 1}
    assert "best" in hit
