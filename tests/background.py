"""Runs losslab in a process that a test may kill, forked from a server that has imported everything already."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["losslab.sweep.command", "losslab.run.evaluate", "tiny_digits"])


def start(
    folder: Path, arguments: Sequence[str], prepare: Callable[..., None] | None = None, *given: Any
) -> BaseProcess:
    """Run `losslab ARGUMENTS` in `folder` with its output in output.txt there; first call `prepare(*given)`."""
    process = _context.Process(target=_main, args=(str(folder), list(arguments), prepare, given))
    process.start()
    return process


def _main(folder: str, arguments: list[str], prepare: Callable[..., None] | None, given: Sequence[Any]) -> None:
    from losslab.cli import main

    os.chdir(folder)
    if prepare is not None:
        prepare(*given)
    with open("output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(main(arguments))


def wait_for(condition: Callable[[], bool], process: BaseProcess, seconds: float = 150.0) -> None:
    """Return as soon as `condition` holds; fail if the process ends or the time is over before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), "the process ended too early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def stop(process: BaseProcess, number: signal.Signals) -> int | None:
    """Send a signal and return the exit status (negative: killed by that signal)."""
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(150)
    return process.exitcode
