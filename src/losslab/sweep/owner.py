"""Who runs a trial, and whether that process still lives."""

import functools
import os
import socket
from pathlib import Path
from typing import Any

import psutil


@functools.cache
def _boot_id() -> str:
    """Changes when the machine is started again, after which its process numbers mean nothing."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else f"{psutil.boot_time():.0f}"


def this_process() -> dict[str, Any]:
    """The mark that this process leaves on the trials that it runs."""
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "boot": _boot_id(), "started": started}


def is_dead(owner: dict[str, Any] | None) -> bool:
    """Whether the process that left this mark is gone. One on another host counts as alive."""
    if owner is None:  # marked in the same locked step in which it is asked: without a mark, that step never ended
        return True
    if owner["host"] != socket.gethostname():
        return False
    if owner["boot"] != _boot_id() or not psutil.pid_exists(owner["pid"]):
        return True
    try:
        process = psutil.Process(owner["pid"])
        return (
            process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner["started"]) > 5
        )  # a corrected clock shifts it
    except psutil.NoSuchProcess:
        return True
