"""Makes a sweep kill its own process at a given moment, or shortens leases; for `background.start`."""

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kill_at(phase: str, count: int) -> None:
    """Kill this process when `phase` is reached for the `count`-th time; a line in killed.txt records it."""
    left = [count]

    def reached(before_the_end: Callable[[], object] = lambda: None) -> None:
        left[0] -= 1
        if left[0] == 0:
            before_the_end()
            with open("killed.txt", "a") as file:
                file.write(f"{phase}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    {**PHASES, **PHASES_OF_CONFIRM}[phase](reached)


def _before(
    owner: Any, name: str, reached: Callable[..., None], when: Callable[..., bool] = lambda *_, **__: True
) -> None:
    """Let every call of `owner.name` for which `when` holds call `reached` first."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            reached()
        return method(*arguments, **named)

    setattr(owner, name, call)


def _before_ask(reached: Callable[..., None]) -> None:
    from losslab.sweep.study import Study

    _before(Study, "_ask_for", reached)


def _after_ask(reached: Callable[..., None]) -> None:
    from losslab.sweep.ownership import Lease

    _before(Lease, "hold", reached)  # asked, and not marked yet


def _in_a_step(reached: Callable[..., None]) -> None:
    from losslab.models import Classifier

    _before(Classifier, "training_step", reached)


def _between_seeds(reached: Callable[..., None]) -> None:
    from losslab.sweep.study import Study

    _before(Study, "_train_at", reached, lambda study, trial, seed, *_: seed != study.file.seeds[0])


def _writing(kind: str, folder: str, reached: Callable[..., None]) -> None:
    """A file is written under another name, and not moved to its place yet."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == kind and f"{folder}/" in str(arguments[1]):
            reached()

    sys.addaudithook(hook)


def _in_the_journal(reached: Callable[..., None]) -> None:
    from optuna.storages.journal import JournalFileBackend

    append = JournalFileBackend.append_logs

    def append_logs(self: Any, logs: list[dict[str, Any]]) -> None:
        def half() -> None:
            self._lock.acquire()
            line = json.dumps(logs[0]).encode()
            with open(self._file_path, "ab") as file:
                file.write(line[: len(line) // 2])

        reached(half)
        append(self, logs)

    JournalFileBackend.append_logs = append_logs  # type: ignore[method-assign]


def _between_result_and_tell(reached: Callable[..., None]) -> None:
    import optuna

    _before(optuna.Study, "tell", reached, lambda study, trial, value=None, *_, **__: value is not None)


PHASES: dict[str, Callable[[Callable[..., None]], None]] = {
    "before ask": _before_ask,
    "after ask": _after_ask,
    "inside a step": _in_a_step,
    "between two seeds": _between_seeds,
    "writing a checkpoint": functools.partial(_writing, "os.rename", "checkpoints"),
    "writing a result": functools.partial(_writing, "os.link", "results"),
    "inside the journal append": _in_the_journal,
    "between result and tell": _between_result_and_tell,
}
PHASES_OF_CONFIRM = {"writing a test result": functools.partial(_writing, "os.link", "test/results")}


def short_leases(seconds: float, stop_at_step: int | None = None) -> None:
    """Let leases run out after `seconds`; with a step, this process stops itself (SIGSTOP) there, once."""
    from losslab.sweep import ownership

    ownership.LEASE_SECONDS, ownership.RENEWAL_SECONDS = seconds, seconds / 10
    if stop_at_step is not None:
        import optuna

        left, between_renewals = [stop_at_step], threading.Lock()
        set_user_attr = optuna.Trial.set_user_attr

        def set_between_renewals(*arguments: Any, **named: Any) -> None:
            with between_renewals:
                set_user_attr(*arguments, **named)

        def reached() -> None:
            left[0] -= 1
            if left[0] == 0:
                with between_renewals:  # a process that stops while it holds the journal's lock blocks all others
                    Path("stopped.txt").write_text("stopped")
                    os.kill(os.getpid(), signal.SIGSTOP)

        optuna.Trial.set_user_attr = set_between_renewals  # type: ignore[method-assign]
        _in_a_step(reached)
