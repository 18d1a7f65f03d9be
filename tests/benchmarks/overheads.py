"""What everything around the training takes: start-up, the fixed cost of a training, time and memory as sizes grow.

`python overheads.py WHAT SIZE` measures one row of the growth table in a process of its own.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from epoch import EpochSeconds, cnn
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from measure import BATCH, DEVICE, QUIET, ROOT, SMALL, Cell, Table, be_quiet, ratios, take_turns
from members import images, member

from losslab.data import ImageDataModule, LabelledImages, MNISTDataModule
from losslab.models import MLP
from losslab.sweep import Population, PopulationData

REPEATS = 1 if SMALL else 3
LOSSLAB = [sys.executable, "-m", "losslab"]
CNN_FILE = str(Path(__file__).parents[2] / "experiments" / "cnn.yaml")
ONE_STEP = [
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
    *("--model.evaluate_train", "never"),
]
ONE_BY_ONE = ["--workers", "1", "--population", "1"]

STUDY = f"""\
experiment: {CNN_FILE}
arms:
  focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}
grid:
  model.init_args.loss.init_args.gamma: [0, 1, 2, 3, 4]
seeds: [0]
"""
SWEEP = [*LOSSLAB, "sweep", "--config", "study.yaml", *ONE_BY_ONE, *ONE_STEP, "--seeds"]


def wall(command: list[str]) -> float:
    """Seconds of a command in an empty folder."""
    environment = os.environ | {"MNIST_DIR": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.yaml").write_text(STUDY)
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - start


def start_up() -> Table:
    """Seconds until something happens."""
    lightning = [sys.executable, "-c", "import lightning.pytorch.cli"]
    commands = {
        "`python -c 'import lightning.pytorch.cli'`": lightning,
        "`losslab --help`": [*LOSSLAB, "--help"],
        "`losslab fit --help`": [*LOSSLAB, "fit", "--help"],
        "`losslab fit` of one step": [*LOSSLAB, "fit", "--config", CNN_FILE, *ONE_STEP],
        "`losslab sweep` of 20 one-step trainings": [*SWEEP, "0", "1", "2", "3"],
        "`losslab sweep` of 40": [*SWEEP, *map(str, range(8))],
    }
    for command in commands.values():
        wall(command)  # the files come into the system's cache
    seconds = take_turns({name: partial(wall, command) for name, command in commands.items()}, REPEATS)
    *_, twenty, forty = seconds
    rows: list[list[Cell]] = [
        [name, own, ratios(own, seconds["`python -c 'import lightning.pytorch.cli'`"])] for name, own in seconds.items()
    ]
    each = [(more - fewer) / 20 for more, fewer in zip(seconds[forty], seconds[twenty], strict=True)]
    rows.append(["a further training in the same study", each, ""])
    return Table(
        "Start-up",
        "Seconds of a command from start to end, MNIST on disk. A further training: a twentieth of what 40 one-step "
        f"trainings, one by one, take longer than 20. Median [lowest, highest] of {REPEATS} interleaved repeats.",
        ["command", "seconds", "of the import's"],
        rows,
    )


class Repeated(MNISTDataModule):
    """MNIST's training images several times."""

    times = 1

    def load_train(self) -> LabelledImages:
        one = super().load_train()
        return LabelledImages(one.images.repeat(self.times, 1, 1, 1), one.labels.repeat(self.times))


class ManyClasses(ImageDataModule):
    """50 images of 28 x 28 for each of C classes: a pattern a class, and noise."""

    data_name = "noise"
    image_shape = (1, 28, 28)
    classes = 10

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"class {number}" for number in range(self.classes))

    def load_train(self) -> LabelledImages:
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(self.classes).repeat(50)
        patterns = torch.randint(256, (self.classes, 1, 28, 28), generator=draw)
        noise = torch.randint(256, (len(labels), 1, 28, 28), generator=draw)
        return LabelledImages(((patterns[labels] + noise) // 2).to(torch.uint8), labels)

    load_test = load_train


def one_training(what: str, size: int) -> tuple[LightningModule, LightningDataModule]:
    """A training whose images, members or classes are `size` times as many as its smallest."""
    if what == "members":
        population = Population([member("MLP", seed) for seed in range(size)])
        return population, PopulationData([images("MLP", seed) for seed in range(size)])
    if what == "classes":
        many = ManyClasses(batch_size=BATCH)
        many.classes = size
        return MLP((64, 128, 64), batch_norm=True, num_classes=size, evaluate_train="never"), many
    repeated = Repeated(root=ROOT, batch_size=BATCH, source="embedded" if SMALL else "full")
    repeated.times = size
    return cnn(), repeated


def grown(what: str, size: int) -> list[float]:
    """Seconds of the second epoch and MB at most, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, what, str(size)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def growth() -> Table:
    """Time and memory of an epoch as sizes grow."""
    rows: list[list[Cell]] = []
    labels = {
        "images": lambda size: f"CNN, {55 * size},000 images",
        "members": lambda size: f"{size} MLPs 784-10-10 as one, 55,000 images",
        "classes": lambda size: f"MLP 784-64-128-64-{size}, {45 * size:,} images, {size:,} classes",
    }
    sizes = {"images": (1, 4), "members": (1, 4, 16, 64), "classes": (10, 100, 1000)}
    for what, label in labels.items():
        ours = sizes[what][:2] if SMALL else sizes[what]
        measured: dict[int, list[list[float]]] = {size: [] for size in ours}
        for size in ours:
            measured[size].append(grown(what, size))
        first = [seconds for seconds, _ in measured[ours[0]]]
        for size in ours:
            seconds, memory = ([pair[i] for pair in measured[size]] for i in (0, 1))
            rows.append([label(size), seconds, ratios(seconds, first), memory])
    return Table(
        "Growth",
        "Seconds of the second epoch at batch 128, its metrics of each class included, and the most memory that the "
        "process held (on a GPU: the device), in MB. Members have their own seeds and splits. The images of many "
        "classes are a pattern a class under noise, a tenth more of them to validate. Measured once, each "
        "in a process of its own.",
        ["training", "seconds an epoch", "of the first row's", "peak MB"],
        rows,
    )


def _in_a_process(what: str, size: int) -> None:
    be_quiet()
    torch.manual_seed(0)
    clock = EpochSeconds()
    model, data = one_training(what, size)
    Trainer(**{**QUIET, "max_epochs": 2, "callbacks": [clock]}).fit(model, datamodule=data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps([clock.seconds[1], peak]))


if __name__ == "__main__":
    _in_a_process(sys.argv[1], int(sys.argv[2]))
