"""What everything around the training takes: start-up, the fixed cost of a training, time and memory as sizes grow."""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import Cell, Table, ratios, take_turns

LOSSLAB = [sys.executable, "-m", "losslab"]
CNN_FILE = str(Path(__file__).parents[2] / "experiments" / "cnn.yaml")
ONE_STEP = [
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
    *("--model.evaluate_train", "never"),
]

STUDY = f"""\
experiment: {CNN_FILE}
arms:
  focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}
grid:
  model.init_args.loss.init_args.gamma: [0, 1, 2, 3, 4]
seeds: [0, 1, 2, 3]
"""


def wall(command: list[str]) -> float:
    """Seconds of a command in an empty folder."""
    environment = os.environ | {"MNIST_DIR": str(Path(os.environ.get("MNIST_DIR") or "data").resolve())}
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
        "`losslab sweep` of 20 one-step trainings": [*LOSSLAB, "sweep", "--config", "study.yaml", *ONE_STEP],
    }
    for command in commands.values():
        wall(command)  # the files come into the system's cache
    seconds = take_turns({name: partial(wall, command) for name, command in commands.items()}, 5)
    *_, one_step, sweep = seconds
    rows: list[list[Cell]] = [
        [name, own, ratios(own, seconds["`python -c 'import lightning.pytorch.cli'`"])] for name, own in seconds.items()
    ]
    each = [(all_of_them - one) / 19 for all_of_them, one in zip(seconds[sweep], seconds[one_step], strict=True)]
    rows.append(["a further training in the same study", each, ""])
    return Table(
        "Start-up",
        "Seconds of a command from start to end, MNIST on disk. A further training: a twentieth of what 20 one-step "
        "trainings take longer than one fit. Median [lowest, highest] of 5 interleaved repeats.",
        ["command", "seconds", "of the import's"],
        rows,
    )


GROWTH = """
import json, os, resource, sys, time, warnings, logging
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import torch
from epoch import EpochSeconds, cnn, mlp
from lightning.pytorch import Trainer
from losslab.data import LabelledImages, MNISTDataModule
from losslab.models import MLP
from losslab.sweep.population import Population, PopulationData
from measure import QUIET

class Repeated(MNISTDataModule):
    times = 1
    def load_train(self):
        one = super().load_train()
        return LabelledImages(one.images.repeat(self.times, 1, 1, 1), one.labels.repeat(self.times))

def member(seed):
    torch.manual_seed(seed)
    return MLP((10,), evaluate_train="never")

what, size = sys.argv[1], int(sys.argv[2])
data = Repeated(batch_size=128, source="full")
clock = EpochSeconds()
trainer = Trainer(max_epochs=2, callbacks=[clock], **QUIET)
if what == "images":
    data.times = size
    trainer.fit(cnn(), datamodule=data)
else:
    data.setup("fit")
    trainer.fit(Population([member(seed) for seed in range(size)]), datamodule=PopulationData(data, range(size)))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if torch.cuda.is_available():
    peak = torch.cuda.max_memory_allocated() / 2**20
print(json.dumps([clock.seconds[1], peak]))
"""


def grown(what: str, size: int) -> list[float]:
    """Seconds of the second epoch and MB at most, in a process of its own."""
    environment = os.environ | {
        "MNIST_DIR": str(Path(os.environ.get("MNIST_DIR") or "data").resolve()),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, what, str(size)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def growth() -> Table:
    """Time and memory of an epoch as sizes grow."""
    rows: list[list[Cell]] = []
    for what, sizes in (("images", (1, 2, 4)), ("members", (1, 4, 16, 64))):
        measured: dict[int, list[list[float]]] = {size: [] for size in sizes}
        for _ in range(3):
            for size in sizes:
                measured[size].append(grown(what, size))
        first = [seconds for seconds, _ in measured[sizes[0]]]
        for size in sizes:
            seconds, memory = ([pair[i] for pair in measured[size]] for i in (0, 1))
            label = (
                f"CNN, {55 * size},000 images" if what == "images" else f"{size} MLPs 784-10-10 as one, 55,000 images"
            )
            rows.append([label, seconds, ratios(seconds, first), memory])
    return Table(
        "Growth",
        "Seconds of the second epoch at batch 128, and the most memory that the process held (on a GPU: the device), "
        "in MB. Median [lowest, highest] of 3 interleaved repeats, each in a process of its own.",
        ["training", "seconds an epoch", "of the first row's", "peak MB"],
        rows,
    )
