"""Several processes on one study of one machine: started, watched, restarted and stopped by their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from losslab.errors import UserError
from losslab.run import Interrupted
from losslab.study import read_results
from losslab.sweep.display import Display
from losslab.sweep.study import Study

RESTARTS = 3
"""How often one worker is started again after it died."""

GRACE_SECONDS = 10.0
"""What a worker has to finish its batch in after Ctrl-C."""

PARENT, STORAGE = "LOSSLAB_SWEEP_PARENT", "LOSSLAB_SWEEP_STORAGE"
"""Tell a worker its parent's process number, and the storage: a command line is open to everybody on the machine."""

USER_ERROR = 2
"""A worker's exit status for what a restart would not mend."""


def parent_is_gone() -> bool:
    """Whether this is a worker whose parent has died: it finishes its trial and goes."""
    return os.getppid() != int(os.environ[PARENT])


class Workers:
    """The workers of one call of `losslab sweep`.

    Args:
        number: how many.
        tokens: the arguments of the command, without those that are the parent's own.
        study: what they work on.
        folder: the study's; their output goes to workers/<n>.log in it, or <n>-<process>.log where another call's does.
    """

    def __init__(self, number: int, tokens: list[str], study: Study, folder: Path) -> None:
        self._command = [sys.executable, "-m", "losslab", "sweep", *tokens]
        self._study, self._folder = study, folder
        folder.joinpath("workers").mkdir(exist_ok=True)
        self._names = FileLock(folder / "workers" / "lock", blocking=False)
        ending = ".log"
        try:
            self._names.acquire()
        except Timeout:
            ending = f"-{os.getpid()}.log"
        self._logs = [folder / "workers" / f"{place}{ending}" for place in range(number)]
        self._environments = [
            os.environ | worker_environment(place, number, torch.cuda.device_count()) | self._own()
            for place in range(number)
        ]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * number
        self._restarts = [0] * number
        self._read = [0] * number
        self._received: int | None = None

    def _own(self) -> dict[str, str]:
        return {PARENT: str(os.getpid()), STORAGE: self._study.file.storage, "PYTHONUNBUFFERED": "1"}

    def run(self, display: Display) -> None:
        """Run them until the study is done.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or a closed terminal. It was passed on, and all workers have ended.
            UserError: all workers died, more often than they are started again.
        """
        former: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                former[number] = signal.signal(number, self._note)
        try:
            for place, log in enumerate(self._logs):
                self._read[place] = log.stat().st_size if log.exists() else 0
                self._start(place)
            while self._received is None and self._watch(display):
                self._show(display)
                self._study.show_best(display)  # may wait for a database, until it is stopped
                time.sleep(0.5)
            if self._received is not None:
                raise Interrupted(self._received)
            self._study.show_best(display)
        finally:
            self._stop()
            self._show(display)
            self._names.release()
            for caught, handler in former.items():
                signal.signal(caught, handler)
        if not self._study.is_done():
            raise UserError(
                f"all workers ended before the study was done, after {sum(self._restarts)} restarts; see "
                f"{self._logs[0].parent}/*.log. Finished results are kept; the same command goes on."
            )

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:  # the second Ctrl-C does not wait
            self._signal(signal.SIGKILL)
        self._received = int(number)

    def _start(self, place: int) -> None:
        with self._logs[place].open("ab") as log:
            # In a session of its own, so that a terminal's Ctrl-C reaches it from its parent only, once.
            self._processes[place] = subprocess.Popen(
                self._command, env=self._environments[place], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _watch(self, display: Display) -> bool:
        """Start again what died; whether any worker is left."""
        for place, process in enumerate(self._processes):
            status = None if process is None else process.poll()
            if status is None:
                continue
            self._processes[place] = None
            if status == 0:
                continue
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            again = status != USER_ERROR and self._restarts[place] < RESTARTS
            display.line(f"worker {place} died ({how}; {self._logs[place]}){': started again' if again else ''}")
            if again:
                self._restarts[place] += 1
                self._start(place)
        return any(self._processes)

    def _show(self, display: Display) -> None:
        for place, log in enumerate(self._logs):
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(self._read[place])
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read[place] += len(new)
            for line in new.decode(errors="replace").splitlines():
                display.line(f"[{place}] {line}")
        running = sum(process is not None for process in self._processes)
        display.results(len(read_results(self._folder)), f"{running} workers")

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.send_signal(number)

    def _stop(self) -> None:
        self._signal(signal.SIGINT)
        end = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            if process is not None:
                try:
                    process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def worker_environment(place: int, number: int, gpus: int) -> dict[str, str]:
    """What a worker's environment has for its share of the machine.

    Args:
        place: the worker's, from 0.
        number: of workers.
        gpus: those that the parent sees; workers take turns on them.
    """
    share: dict[str, str] = {}
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share["OMP_NUM_THREADS"] = str(max(1, cores // number))
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
        share["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
    return share
