"""What the benchmarks share: turns, tables that keep every repeat and the machine, counted operations."""

import contextlib
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from losslab.data import MNISTDataModule

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where everything is measured: the first GPU, if there is one."""

SMALL = bool(os.environ.get("BENCH_SMALL"))
"""Tiny sizes, by which the benchmarks themselves are tried: a few steps on the embedded images, one repeat."""

ROOT = Path(os.environ.get("MNIST_DIR") or "data").resolve()
"""The folder of MNIST."""

BATCH = 128

QUIET: dict[str, Any] = {
    "accelerator": DEVICE.type,
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
} | ({"limit_train_batches": 3, "limit_val_batches": 1} if SMALL else {})
"""A Trainer that trains and does nothing else."""


def be_quiet() -> None:
    """Let neither Lightning nor a warning write between the results."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def mnist(**arguments: Any) -> MNISTDataModule:
    """MNIST (the embedded images, if SMALL), set up."""
    data = MNISTDataModule(root=ROOT, source="embedded" if SMALL else "full", batch_size=BATCH, **arguments)
    data.setup("fit")
    return data


Cell = str | list[float]
"""A word, or a number with all its repeats: shown as median [lowest, highest]."""


class Table(NamedTuple):
    """One measurement: a heading, what was measured, and rows with a cell for each column."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def record(self) -> dict[str, Any]:
        """As plain values, with the machine."""
        return {**self._asdict(), "machine": machine()}


def machine() -> str:
    """Processor with its instructions, cores and versions; the GPU's name in front, if there is one."""
    device = f"{torch.cuda.get_device_name()}; " if DEVICE.type == "cuda" else ""
    return (
        f"{device}{processor(Path('/proc/cpuinfo'))}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, lightning {lightning.__version__}"
    )


def processor(cpuinfo: Path) -> str:
    """The processor's name, and whether it computes in AVX-512 and in bfloat16, by Linux's list of its flags."""
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()] if cpuinfo.is_file() else []
    known = {name.strip().lower(): value.strip() for name, _, value in reversed(lines)}
    flags = set((known.get("flags") or known.get("features") or "").split())
    has = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f")) if flag in flags]
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16", "bf16", "sme") if flag in flags]
    has.append(f"bf16 ({', '.join(bf16)})" if bf16 else "no bf16")
    name = known.get("model name") or platform.processor() or "unknown processor"
    return f"{name} ({platform.machine()}, {', '.join(has) if flags else 'unknown flags'})"


def markdown(record: Mapping[str, Any]) -> str:
    """A kept table as Markdown."""
    lines = [f"## {record['title']}", "", record["text"], "", f"{record['machine']}.", ""]
    lines += [f"| {' | '.join(record['columns'])} |", "|---" * len(record["columns"]) + "|"]
    lines += [f"| {' | '.join(map(shown, row))} |" for row in record["rows"]]
    return "\n".join(lines) + "\n"


def shown(cell: Cell) -> str:
    """Median [lowest, highest], to three digits."""
    if isinstance(cell, str):
        return cell
    middle = digits(statistics.median(cell))
    return middle if len(cell) == 1 else f"{middle} [{digits(min(cell))}, {digits(max(cell))}]"


def digits(number: float) -> str:
    """To three digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{float(f'{number:.3g}'):g}"


def take_turns(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each contender returns, in each repeat: one after the other, so that a noisy machine is noisy for all."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            measured[name].append(contender())
    return measured


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Within each repeat."""
    return [above / below for above, below in zip(numerator, denominator, strict=True)]


def now() -> float:
    """Seconds, when the device has done all that it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class StepSeconds(Callback):
    """Mean seconds of a step, in `seconds`: of all but the first `warm` steps of a fit of one epoch.

    Args:
        warm: steps that are left out; 1 or more.
        ready: called when they are done, such as to wait for another process.
    """

    def __init__(self, warm: int, ready: Callable[[], object] = lambda: None) -> None:
        self._warm, self._ready = warm, ready

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done == self._warm:
            self._ready()
            self._start = now()
        elif done == trainer.num_training_batches:
            self.seconds = (now() - self._start) / (done - self._warm)


class CountOperations(TorchDispatchMode):
    """Counts, in `number`, the operations that torch is given, without those that return a view of their input."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not function.is_view
        return function(*args, **(kwargs or {}))


class StepOperations(Callback):
    """Counts, in `number`, the operations from the end of a fit's third step to the end of its fourth."""

    def __init__(self) -> None:
        self._within = contextlib.ExitStack()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            self._count = self._within.enter_context(CountOperations())
        elif batch_idx == 3:
            self._within.close()
            self.number = self._count.number

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._within.close()
