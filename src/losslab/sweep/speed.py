"""How a study is trained: one by one, as populations, or by several processes; decided by measuring a few steps."""

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from losslab.data import ImageDataModule
from losslab.run import Interrupted, Interruption, Parts
from losslab.study import settings_to_check
from losslab.sweep.eligibility import shared_model_key, why_alone
from losslab.sweep.population import Population
from losslab.sweep.population_data import PopulationData
from losslab.sweep.populations import QUIET, why_unready
from losslab.sweep.study import Study

WARM_UP, MEASURED = 5, 20
"""Steps that `Stopwatch` leaves out, and steps that it measures."""

PATIENCE = 1.0
"""Seconds after which it leaves out no more steps, and measures no more."""

LONG_STEP = 0.01
"""Seconds of a step of which little is overhead on a CPU, so that a population has nothing to save. (The steps of a CNN
are about as quick in one, and whole studies are slower: tests/benchmarks/RESULTS.md.)"""

AUTO_SIZE = 16
"""Members of a population, unless a number is given."""

START_SECONDS = 10.0
"""What it costs to start processes: each imports torch and Lightning, and opens the study."""

PROCESS_GIGABYTES = 1.0
"""Free memory that a process needs."""

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use."""

SHARE = 0.8
"""Speed of one of several processes, against a process of one thread alone: they share caches and memory."""


class Way(NamedTuple):
    """How a study is trained: by a number of processes, each with a number of trainings at once."""

    workers: int
    population: int

    def __str__(self) -> str:
        if self.workers > 1:
            return f"by {self.workers} processes"
        return f"as populations of {self.population}" if self.population > 1 else "one by one"


ONE_BY_ONE = Way(1, 1)


class Rates(NamedTuple):
    """Steps a second, of all members together; 0 for what cannot be measured.

    Args:
        alone: of one training, with all threads.
        one_thread: of one training, with one thread.
        together: of a population, with all threads.
        size: its members.
    """

    alone: float
    one_thread: float
    together: float
    size: int


class _MeasuredError(Exception):
    """Ends a training that was started to measure its speed."""


class Stopwatch(Checkpoint):
    """Measures seconds a step in the first epoch, or in several of one step each. Give it to the Trainer.

    It is a Checkpoint so that Lightning adds none of its own.
    """

    _start: tuple[float, int] | None
    """Time and place of the step behind which the measured ones begin."""

    def measure(self, trainer: Trainer, model: LightningModule, data: Any) -> float:
        """Train until the measured steps are done, and return the mean seconds of one step."""
        try:
            trainer.fit(model, datamodule=data)
        except _MeasuredError:
            return self._seconds
        raise AssertionError("the training had no second step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches, step = int(trainer.num_training_batches), trainer.global_step - 1
        last = (min(WARM_UP + MEASURED, batches) if batches > 1 else WARM_UP + MEASURED) - 1
        first = max(min(WARM_UP, last) - 1, 0)
        if step in (first, last) and pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == 0:
            self._begun, self._start = now, None
        if self._start is None and (step == first or now - self._begun > PATIENCE):
            self._start = now, step
        elif self._start is not None and (step == last or now - self._start[0] > PATIENCE):
            self._seconds = (now - self._start[0]) / (step - self._start[1])
            raise _MeasuredError


def seconds_by_way(rates: Rates, processes: int, steps: float) -> dict[Way, float]:
    """Return how long each possible way takes, in seconds; {} if nothing could be measured.

    Args:
        rates: as measured.
        processes: how many the machine carries; see `most_processes`.
        steps: steps that are left of all trainings.
    """
    found = {Way(1, rates.size): (rates.together, 0.0)} if rates.size > 1 else {}
    if processes > 1:
        found[Way(processes, 1)] = (rates.one_thread * processes * SHARE, START_SECONDS)
    found[ONE_BY_ONE] = (rates.alone, 0.0)
    return {way: start + steps / rate for way, (rate, start) in found.items() if rate > 0}


def most_processes(cores: int, threads: int, free_bytes: float, trainings: int) -> int:
    """Return how many processes the machine carries: by its cores, its free memory, and the trainings that are left.

    Args:
        cores: cores that this process may use.
        threads: threads of each process.
        free_bytes: free memory; each process needs `PROCESS_GIGABYTES`.
        trainings: trainings that are left.
    """
    return max(1, min(cores // threads, int(free_bytes / (PROCESS_GIGABYTES * 1e9)), trainings))


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use, by its affinity and by its container's limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = _of_container("cpu.max").split()
    return min(cores, max(1, int(quota) // int(period[0]))) if quota.isdecimal() and period else cores


def free_bytes() -> float:
    """Return the memory that is free, on the machine and within the container's limit."""
    limit, used = _of_container("memory.max"), _of_container("memory.current")
    free = psutil.virtual_memory().available
    return min(free, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else free


def _of_container(name: str) -> str:
    """Return what Linux' control group says of the container that this process runs in; "max" without a limit."""
    try:
        return (CONTAINER / name).read_text().strip() or "max"
    except OSError:
        return "max"


def choose_way(
    study: Study, processes: int | str, first: Parts, trainings: int, known: Sequence[int] | None = None
) -> Way:
    """Return how to train a study, and print why if it was measured.

    A given number is obeyed. On a GPU it is a population. On a CPU a few steps of the study's first setting and, as a
    population, of the first ones that may form one are measured, unless little is left to train.

    Args:
        study: the study.
        processes: their number, or "auto".
        first: data, set up, model and Trainer of the first setting.
        trainings: trainings that are left.
        known: the `Way` of an earlier call, which a continued study keeps: the masks of dropout depend on it.
    """
    given, workers = study.file.population, processes if isinstance(processes, int) else None
    if known is not None and not isinstance(given, int):
        former = Way(*known)
        most = most_processes(usable_cores(), _threads(), free_bytes(), trainings)
        return Way(workers or min(former.workers, most), former.population)
    if isinstance(given, int) or trainings == 0 or (given is None and workers is not None):
        return Way(workers or 1, given if isinstance(given, int) else 1)
    if first.trainer.strategy.root_device.type != "cpu":
        print(f"Trained as populations of up to {AUTO_SIZE} on the {first.trainer.strategy.root_device.type} device.")
        return Way(workers or 1, AUTO_SIZE)
    steps = trainings * steps_of_training(first.trainer, first.data)
    if steps * roughly_a_step(first) < START_SECONDS:
        print("Little is left to train: one by one.")
        return Way(workers or 1, 1)
    most = most_processes(usable_cores(), _threads(), free_bytes(), trainings)
    seconds = seconds_by_way(measure(study, min(AUTO_SIZE, trainings), _threads()), most, steps)
    if workers is not None:  # whether each of them forms populations
        seconds = {way: each for way, each in seconds.items() if way.workers == 1}
    if not seconds:
        print("The steps of the first setting could not be measured: trained one by one.")
        return Way(workers or 1, 1)
    best, *others = sorted(seconds, key=seconds.__getitem__)
    against = " and ".join(f"{seconds[way]:,.0f} s {way}" for way in others)
    print(f"Trained {best}: its steps take about {seconds[best]:,.0f} s{', against ' * bool(others)}{against}.")
    return best if workers is None else Way(workers, best.population)


def _threads() -> int:
    """Return the threads of one of several processes."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 1


def steps_of_training(trainer: Trainer, data: ImageDataModule) -> int:
    """Return the optimiser steps of one training; of one without a limit 1."""
    limit, batches = trainer.limit_train_batches, math.ceil(int(data.class_counts.sum()) / data.batch_size)
    batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    counts = [trainer.max_steps, batches * (trainer.max_epochs or -1)]
    return min((count for count in counts if count > 0), default=1)


def roughly_a_step(parts: Parts) -> float:
    """Return about the seconds of a step: three times those of the network's output for a batch, and some overhead.

    They are infinite where the network fails, of which its training says more.
    """
    model = parts.model.eval()
    try:
        weight = next(model.parameters())
        images = torch.zeros(parts.data.batch_size, *parts.data.image_shape, dtype=weight.dtype)  # (N, *image_shape)
        with torch.no_grad():
            model(images[:1])
            started = time.perf_counter()
            model(images)
    except Exception:
        return math.inf
    return 3 * (time.perf_counter() - started) + 0.001


def measure(study: Study, size: int, threads: int) -> Rates:
    """Measure the first setting alone and, if its steps are short, a population of the first ones that may join it.

    Args:
        study: the study; its command line holds another configuration afterwards.
        size: members of the population, at most.
        threads: threads of one of several processes.
    """
    all_threads = torch.get_num_threads()
    alone, _ = _rate(study, 1)
    one_thread = alone
    if threads != all_threads:
        try:
            torch.set_num_threads(threads)
            one_thread, _ = _rate(study, 1)
        finally:
            torch.set_num_threads(all_threads)
    return Rates(alone, one_thread, *((0.0, 1) if 0 < alone < 1 / LONG_STEP else _rate(study, size)))


def _rate(study: Study, size: int) -> tuple[float, int]:
    """Measure the first training alone, or a population of it and those that may join it.

    Returns:
        The steps a second of all together, 0 if they fail, and how many they are.
    """
    clock, interruption = Stopwatch(), Interruption(None)
    rate, members = 0.0, list[Parts]()
    # What Lightning or a user's callbacks write goes where it is deleted.
    with tempfile.TemporaryDirectory() as folder, interruption, contextlib.suppress(Exception):
        members = _members(study, size, [clock, interruption], folder)
        trainer, model, data = members[-1]
        if size == 1:
            rate = 1 / clock.measure(trainer, model, data)
        elif len(members) > 1:
            population = Population([each.model for each in members])  # type: ignore[misc]
            together = PopulationData([each.data for each in members])
            rate = len(members) / clock.measure(trainer, population, together)
    if interruption.received is not None:
        raise Interrupted(interruption.received)
    return rate, len(members)


def _members(study: Study, size: int, callbacks: Sequence[Callback], folder: str) -> list[Parts]:
    """Build the first training, and up to `size` in all that may form a population with it."""
    members: list[Parts] = []
    key = ""
    for seed, setting in itertools.islice(itertools.product(study.file.seeds, settings_to_check(study.file)), 2 * size):
        study.configure(setting, seed)
        parts = study.command_line.build(callbacks, default_root_dir=folder, **QUIET)
        config = study.command_line.resolved()
        if size == 1:
            return [parts]
        if not (why_alone(config, parts) or why_unready(parts.data)):
            key = key or shared_model_key(config, parts)
            members += [parts] if shared_model_key(config, parts) == key else []
        if len(members) == size:
            break
    return members
