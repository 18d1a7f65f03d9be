"""How many trainings a minute a study makes: one after the other, in two processes, as a population."""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import DEVICE, Cell, Table, ratios, take_turns

from losslab.study import read_results

REPEATS = 3
LOSSLAB = [sys.executable, "-m", "losslab", "sweep", "--config"]

EXPERIMENT = """\
model:
  class_path: losslab.models.{network}
  init_args:
    {arguments}
    loss: {{class_path: losslab.losses.FocalLoss}}
data:
  class_path: losslab.data.MNISTDataModule
  init_args: {{source: full, batch_size: 128}}
trainer: {{max_epochs: 1}}
"""
STUDY = """\
experiment: experiment.yaml
arms:
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
grid:
  model.init_args.loss.init_args.gamma: GAMMAS
seeds: SEEDS
"""


def minutes(network: str, arguments: str, gammas: int, seeds: int, processes: int, population: int) -> float:
    """Wall time of one study from nothing to its tables, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiment.yaml").write_text(EXPERIMENT.format(network=network, arguments=arguments))
        values = [round(5 * i / gammas, 3) for i in range(gammas)]
        (Path(folder) / "gamma.yaml").write_text(
            STUDY.replace("GAMMAS", str(values)).replace("SEEDS", str(list(range(seeds))))
        )
        environment = os.environ | {"MNIST_DIR": str(Path(os.environ.get("MNIST_DIR") or "data").resolve())}
        if processes > 1 and DEVICE.type == "cpu":
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
        command = [*LOSSLAB, "gamma.yaml", "--population", str(population)]
        start = time.perf_counter()
        running = [
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(processes)
        ]
        failed = [process.wait() for process in running]
        seconds = time.perf_counter() - start
        results = len(read_results(Path(folder) / "runs" / "gamma"))
        assert not any(failed), failed
        assert results == gammas * seeds, results
    return seconds / 60


def studies() -> Table:
    """Trainings a minute."""
    networks = [("MLP, 784-10-10", "MLP", "hidden: [10]", 16, 2, 16)]
    if DEVICE.type == "cuda":
        networks.append(("CNN", "CNN", "dropout: 0.1", 32, 2, 64))
    rows: list[list[Cell]] = []
    for label, network, arguments, gammas, seeds, size in networks:
        study = partial(minutes, network, arguments, gammas, seeds)
        wall = take_turns(
            {
                "one after the other": partial(study, 1, 1),
                "two processes": partial(study, 2, 1),
                f"a population of {size}": partial(study, 1, size),
            },
            REPEATS,
        )
        for name, taken in wall.items():
            rate = [gammas * seeds / one for one in taken]
            rows.append([f"{label}: {name}", rate, ratios(wall["one after the other"], taken)])
    return Table(
        "A study",
        "Trainings a minute of `losslab sweep` over focal's gamma, one epoch of 55,000 images at batch 128 each, from "
        "the start of the command to its tables. Each member of a population has its own order of the images. 32 "
        f"trainings of the MLP (64 of the CNN). Median [lowest, highest] of {REPEATS} interleaved repeats.",
        ["study", "trainings a minute", "of one after the other's"],
        rows,
    )
