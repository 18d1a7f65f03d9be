"""Many trainings as one: steps and operations of a population, against one by one and two processes.

`python members.py NETWORK MEMBERS STEPS` measures in a process of its own: it prints "ready" when it is warm, starts
when it reads a line, and prints milliseconds a step.
"""

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from measure import QUIET, SMALL, Cell, StepOperations, StepSeconds, Table, be_quiet, mnist, ratios, take_turns

from losslab.data import Augmentation, MNISTDataModule
from losslab.losses import FocalLoss
from losslab.models import CNN, MLP, Classifier
from losslab.sweep import Population, PopulationData

WARM = 5
SIZES = (1, 4) if SMALL else (1, 4, 16, 60)
REPEATS = 1 if SMALL else 2
STEPS = {"MLP": 200, "CNN": 40}
"""Steps that are measured alone; a population makes fewer."""


def member(network: str, seed: int) -> Classifier:
    """An MLP of 784-10-10 or the CNN, with a gamma of its own."""
    torch.manual_seed(seed)
    loss = FocalLoss(float(seed % 4))
    if network == "MLP":
        return MLP((10,), loss=loss, evaluate_train="never")
    return CNN(dropout=0.1, loss=loss, evaluate_train="never")


@cache
def images(network: str, seed: int) -> MNISTDataModule:
    """Each member's images: its own split and order, and for the CNN its own augmentation."""
    return mnist(seed=seed, augmentation=Augmentation(0, 1.5, 0) if network == "CNN" else None)


def fit(network: str, members: int, callback: Callback, **trainer: object) -> None:
    """One epoch of one training alone (0 members), or of a population."""
    lightning = Trainer(**{**QUIET, "max_epochs": 1, "callbacks": [callback], **trainer})
    if members == 0:
        lightning.fit(member(network, 0), datamodule=images(network, 0))
        return
    population = Population([member(network, seed) for seed in range(members)])
    lightning.fit(population, datamodule=PopulationData([images(network, seed) for seed in range(members)]))


def step_ms(network: str, members: int, steps: int) -> float:
    """Milliseconds a step."""
    clock = StepSeconds(WARM)
    fit(network, members, clock, limit_train_batches=WARM + steps, limit_val_batches=1)
    return 1e3 * clock.seconds


def operations(network: str, members: int) -> int:
    """Operations of one step, its batch included, views not."""
    count = StepOperations()
    fit(network, members, count, limit_train_batches=5, limit_val_batches=1)
    return count.number


def two_processes(network: str, steps: int) -> float:
    """Milliseconds a step of two trainings at the same time, each in a process of its own with half of the threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
    command = [sys.executable, str(Path(__file__)), network, "0", str(steps)]
    both = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in both)


def members() -> Table:
    """Trainings as one."""
    rows: list[list[Cell]] = []
    for network, name in (("MLP", "MLP 784-10-10"), ("CNN", "CNN, augmented")):
        steps = 3 if SMALL else STEPS[network]
        contenders = {"one by one": partial(step_ms, network, 0, steps)}
        contenders["two processes"] = partial(two_processes, network, steps)
        for size in SIZES:
            contenders[f"a population of {size}"] = partial(step_ms, network, size, max(3, steps // (1 + size // 4)))
        taken = take_turns(contenders, REPEATS)
        trained = {"one by one": 1, "two processes": 2} | {f"a population of {size}": size for size in SIZES}
        counted = {"one by one": operations(network, 0)}
        counted |= {f"a population of {size}": operations(network, size) for size in SIZES}
        for way, milliseconds in taken.items():
            each = [value / trained[way] for value in milliseconds]
            faster = ratios(taken["one by one"], each)
            rows.append([f"{name}: {way}", milliseconds, each, faster, str(counted.get(way, ""))])
    return Table(
        "Trainings as one",
        "A step at batch 128, its images and losses included, after the first ones. Each member has its own loss, "
        "seed, split and order of the images; the CNN's are shifted by up to 1.5 pixels. Operations: those that torch "
        "is given in a step, without views. Two processes: each with half of the threads, started at the same moment. "
        f"Median [lowest, highest] of {REPEATS} interleaved repeats.",
        ["training", "ms a step", "ms a member's step", "times one by one", "operations a step"],
        rows,
    )


def _in_a_process(network: str, size: int, steps: int) -> None:
    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    be_quiet()
    clock = StepSeconds(WARM, ready)
    fit(network, size, clock, limit_train_batches=WARM + steps, limit_val_batches=1)
    print(1e3 * clock.seconds)


if __name__ == "__main__":
    _in_a_process(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
