"""What the benchmarks share: contenders take turns, and a table keeps every repeat and its machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where everything is measured: the first GPU, if there is one."""

QUIET: dict[str, Any] = {
    "accelerator": DEVICE.type,
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""A Trainer that trains and does nothing else."""

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
    """Processor, cores and versions."""
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else _processor()
    return (
        f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()} ({platform.machine()})"


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
