"""A tracker that raises or hangs does not take the training with it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import Logger

_log = logging.getLogger("losslab")

PATIENCE = 60.0
"""Seconds that one call may take before the tracker counts as hanging."""


class GuardedLogger(Logger):
    """Another logger, called in a thread of its own. Its first failure is told, and then it is called no more.

    Args:
        logger: the one that is meant.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.guarded = logger
        self.failed = False
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None

    def call(self, function: Callable[[], Any], otherwise: Any = None) -> Any:
        """What `function` returns, or `otherwise` if the tracker fails or has failed."""
        if self.failed:
            return otherwise
        if self._calls is None:
            self._calls = SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True).start()
        answer: Future[Any] = Future()
        self._calls.put((function, answer))
        try:
            return answer.result(PATIENCE)
        except Exception as error:
            self.failed = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if isinstance(error, TimeoutError) and not answer.done():
                reason = f"no answer for {PATIENCE:.0f} s"
            kind = type(self.guarded).__name__
            _log.warning(
                "NOTICE: %s failed (%s). The training goes on without it; its records are whole.", kind, reason
            )
            return otherwise

    @property
    def name(self) -> str | None:
        return self.call(lambda: self.guarded.name)

    @property
    def version(self) -> int | str | None:
        return self.call(lambda: self.guarded.version)

    @property
    def save_dir(self) -> str | None:
        return self.call(lambda: self.guarded.save_dir)

    @property
    def experiment(self) -> Any:
        """The tracker's own object, or one that takes every call and does nothing."""
        return self.call(lambda: self.guarded.experiment, _DummyExperiment())  # type: ignore[attr-defined]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.call(lambda: self.guarded.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.call(lambda: self.guarded.log_hyperparams(params, *args, **kwargs))

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        self.call(lambda: self.guarded.log_graph(model, input_array))

    def save(self) -> None:
        self.call(self.guarded.save)

    def finalize(self, status: str) -> None:
        self.call(lambda: self.guarded.finalize(status))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.call(lambda: self.guarded.after_save_checkpoint(checkpoint_callback))


def _serve(calls: "SimpleQueue[tuple[Callable[[], Any], Future[Any]]]") -> None:
    while True:
        function, answer = calls.get()
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
