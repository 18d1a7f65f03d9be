"""Several processes on one study, on one machine; their parent starts, watches, restarts and stops them."""

import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout

from losslab.errors import UserError
from losslab.run import Interrupted, stopping_at_once
from losslab.study import count_results
from losslab.sweep.display import Display
from losslab.sweep.speed import usable_cores
from losslab.sweep.study import Study

RESTARTS = 3
"""How often one worker is started again after it died."""

GRACE_SECONDS = 10.0
"""Seconds in which a worker must finish its batch after Ctrl-C."""

PARENT, STORAGE = "LOSSLAB_SWEEP_PARENT", "LOSSLAB_SWEEP_STORAGE"
"""A worker's environment: its parent's process number, and the storage, since others can read command lines."""

USER_ERROR = 2
"""A worker's exit status for a mistake that a restart would not fix."""


def parent_is_gone() -> bool:
    """Whether this worker's parent has died; the worker then ends after its trial."""
    return os.getppid() != int(os.environ[PARENT])


class Workers:
    """The workers of one call of `losslab sweep`.

    Args:
        number: number of workers.
        tokens: arguments of each worker's command.
        study: the study, opened. Output goes to workers/<n>.log in its folder, or to <n>-<process>.log if another call
            uses that.
    """

    def __init__(self, number: int, tokens: list[str], study: Study) -> None:
        self._command = [sys.executable, "-m", "losslab", "sweep", *tokens]
        self._study = study
        folder = study.folder / "workers"
        folder.mkdir(exist_ok=True)
        self._names = FileLock(folder / "lock", blocking=False)
        ending = ".log"
        try:
            self._names.acquire()
        except Timeout:
            ending = f"-{os.getpid()}.log"
        self._logs = [folder / f"{place}{ending}" for place in range(number)]
        self._environments = [
            os.environ
            | worker_environment(place, number, torch.cuda.device_count())
            | {PARENT: str(os.getpid()), STORAGE: study.file.storage, "PYTHONUNBUFFERED": "1"}
            for place in range(number)
        ]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * number
        self._restarts = [0] * number
        self._read = [0] * number
        self._received: int | None = None
        self._results = count_results(study.folder)

    def run(self, display: Display) -> None:
        """Run the workers until the study is done.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or a closed terminal. All workers were stopped and have ended.
            UserError: all workers died, more often than they are restarted.
        """
        former: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                former[number] = signal.signal(number, self._note)
        try:
            for place, log in enumerate(self._logs):
                self._read[place] = log.stat().st_size if log.exists() else 0
                self._start(place)
            while self._received is None and self._watch(display):
                self._show_output(display)
                self._show_best(display)
                time.sleep(0.5)
            if self._received is not None:
                raise Interrupted(self._received)
            self._show_best(display)
        finally:
            self._stop()
            self._show_output(display)
            self._names.release()
            for caught, handler in former.items():
                signal.signal(caught, handler)
        if not self._study.is_done():
            raise UserError(
                f"all workers ended before the study was done, after {sum(self._restarts)} restarts; see "
                f"{self._logs[0].parent}/*.log. Finished results are kept; the same command continues the study."
            )

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:  # a second Ctrl-C kills at once
            self._signal(signal.SIGKILL)
        self._received = int(number)

    def _show_best(self, display: Display) -> None:
        """Show the best setting, which may wait for a database: until a signal comes, and not if one has come."""
        try:
            with stopping_at_once():
                if self._received is None:
                    self._study.show_best(display)
        except Interrupted as interrupted:
            self._received = interrupted.exit_code - 128

    def _start(self, place: int) -> None:
        with self._logs[place].open("ab") as log:
            # In a session of its own, so that a terminal's Ctrl-C reaches it once, from its parent.
            self._processes[place] = subprocess.Popen(
                self._command, env=self._environments[place], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _watch(self, display: Display) -> bool:
        """Restart workers that died; return whether any worker is left."""
        for place, process in enumerate(self._processes):
            status = None if process is None else process.poll()
            if status is None:
                continue
            self._processes[place] = None
            if status == 0:
                continue
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            again = status != USER_ERROR and self._restarts[place] < RESTARTS
            display.print(f"worker {place} died ({how}; {self._logs[place]}){': started again' if again else ''}")
            if again:
                self._restarts[place] += 1
                self._start(place)
        return any(self._processes)

    def _show_output(self, display: Display) -> None:
        said = False
        for place, log in enumerate(self._logs):
            if not log.exists():
                continue
            with log.open("rb") as file:
                file.seek(self._read[place])
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read[place] += len(new)
            said |= bool(new)
            for line in new.decode(errors="replace").splitlines():
                display.print(f"[{place}] {line}")
        running = sum(process is not None for process in self._processes)
        if said:  # a line for each training that ended
            self._results = count_results(self._study.folder)
        display.count_results(self._results, f"{running} workers")

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
    """Return environment variables that give a worker its share of the CPU cores and GPUs.

    Args:
        place: the worker's place, from 0.
        number: number of workers.
        gpus: number of GPUs that the parent sees; worker n gets the GPU n modulo `gpus`.
    """
    share: dict[str, str] = {}
    if "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, usable_cores() // number))
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
        share["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
    return share
