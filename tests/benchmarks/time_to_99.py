"""How long 99 % takes: experiments/fast.yaml through the Trainer, and a public recipe in a bare loop."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import public_recipe
from epoch import scaled
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import DEVICE, QUIET, ROOT, SMALL, Cell, Table, mnist, now, ratios, take_turns

from losslab.run import CommandLine

SEEDS = range(30, 31 if SMALL else 35)
"""Not those by which a recipe was found."""
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "fast.yaml"
SOURCE = ["--data.root", str(ROOT), "--data.source", "embedded" if SMALL else "full"]

PUBLIC_EPOCHS = 2
"""The fewest with which the public recipe's mean validation accuracy over seeds 20-24 is 99 %."""

Reached = list[tuple[float, float]]
"""Of each epoch: seconds since the start of the fit, the validation included, and the validation accuracy."""


class Validated(Callback):
    """Notes each epoch's `Reached`."""

    def __init__(self) -> None:
        self.reached: Reached = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = now()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reached.append((now() - self._start, float(trainer.callback_metrics["val/acc"])))


class FastExperiment:
    """The experiment, through losslab's command line and Lightning's Trainer."""

    def __init__(self) -> None:
        self.command_line = CommandLine(["--config", str(EXPERIMENT), *SOURCE], "bench")
        self.precision = self.command_line.resolved()["trainer"]["precision"]

    def fit(self, seed: int) -> Reached:
        """Train once."""
        self.command_line.parse_config({**self.command_line.resolved(), "seed_everything": seed})
        noted = Validated()
        trainer, model, data = self.command_line.build([noted], **QUIET)
        data.setup("fit")
        trainer.fit(model, datamodule=data)
        return noted.reached


def race(seeds: Sequence[int]) -> tuple[dict[str, list[Reached]], str]:
    """What each recipe reaches with each seed, warm and in turns; and the experiment's precision."""
    data = mnist()
    train, val = (data.split(name).to(DEVICE) for name in ("train", "val"))
    images = (scaled(train.images), train.labels), (scaled(val.images), val.labels)
    fast = FastExperiment()
    reached: dict[str, list[Reached]] = {"fast": [], "public": []}
    fast.fit(0), public_recipe.train(*images, 0, 1)  # the first fit of a process also loads libraries
    for seed in seeds:
        reached["fast"].append(fast.fit(seed))
        reached["public"].append(public_recipe.train(*images, seed, PUBLIC_EPOCHS))
    return reached, fast.precision


def start_of_losslab() -> float:
    """Seconds of `losslab fit` beside those of its fit, which it records."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "losslab", "fit", "--config", str(EXPERIMENT), *SOURCE, "--name", "fast"]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        wall = time.perf_counter() - start
        (manifest,) = Path(folder).glob("runs/fast/**/manifest.json")
        return wall - json.loads(manifest.read_text())["seconds"]


def start_of_public() -> float:
    """Seconds of the public recipe's script beside those of its training."""
    command = [sys.executable, public_recipe.__file__, "1", "0"]
    start = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"MNIST_DIR": str(ROOT)}, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - start - json.loads(done.stdout)[-1][0]


def time_to_99(seeds: Sequence[int] = SEEDS, start_up: bool = True) -> Table:
    """Seconds to 99 %."""
    reached, precision = race(seeds)
    starts: dict[str, list[float]] = {}
    if start_up:
        starts = take_turns({"fast": start_of_losslab, "public": start_of_public}, 2)
    seconds = {name: [run[-1][0] for run in runs] for name, runs in reached.items()}
    rows: list[list[Cell]] = [
        [
            name, epochs, *_until_99(reached[key]), seconds[key], ratios(seconds[key], seconds["public"]),
            _mean([run[-1][1] for run in reached[key]]), starts.get(key, ""),
        ]
        for key, name, epochs in (
            ("fast", f"experiments/fast.yaml, {precision}", "1"),
            ("public", "public recipe, bare loop", str(PUBLIC_EPOCHS)),
        )
    ]  # fmt: skip
    expected = EXPERIMENT.read_text().split("# Expected: ")[1].split(":")[0]
    return Table(
        "99 %",
        f"One fit of experiments/fast.yaml through the Trainer, and the public recipe (github.com/tuomaso/"
        "train_mnist_fast) in a loop over tensors, both warm, on the same images in memory, validated at the end of "
        "each epoch, which the seconds include. The public recipe's one cycle is stretched over the fewest epochs with "
        "which its mean validation accuracy over seeds 20-24 is 99 %. Until 99 %: to the end of the first epoch whose "
        f"validation accuracy is 99 % or more, of the seeds that reach it. Seeds {seeds[0]}-{seeds[-1]}, which took "
        "part in no choice; accuracy: mean ± sd. Start-up: the whole command without its fit. Median [lowest, highest] "
        f"of interleaved repeats. The test images are not read here; the experiment's own account: {expected}.",
        ["recipe", "epochs", "seeds that reach 99 %", "seconds until 99 %", "seconds of the fit",
         "of the public recipe's", "validation accuracy", "start-up, seconds"],
        rows,
    )  # fmt: skip


def _until_99(runs: Sequence[Reached]) -> tuple[str, Cell]:
    first = [next((seconds for seconds, accuracy in run if accuracy >= 0.99), None) for run in runs]
    seconds = [one for one in first if one is not None]
    return f"{len(seconds)} of {len(runs)}", seconds or ""


def _mean(accuracies: Sequence[float]) -> str:
    sd = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.mean(accuracies):.2f}{sd} %"
