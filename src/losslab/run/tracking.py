"""A tracker that raises or hangs does not take the training with it."""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from losslab.data import ImageDataModule
from losslab.metrics import find_mistakes
from losslab.run.config import SEED, Config, class_name, config_hash, values_with_effect
from losslab.run.folder import RunFolder, read_predictions

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


MOST_IMAGES = 50
PER_CLASS = "per_class"
CONFUSION = "confusion"
MISCLASSIFIED = "misclassified"


def run_config(config: Config, manifest: dict[str, Any]) -> dict[str, Any]:
    """Under short names what one filters and groups by, and under its path every value that has an effect.

    Args:
        config: the run's whole configuration.
        manifest: its manifest.

    Returns:
        `loss`, `architecture`, `seed`, `data_name`, `setting_hash` (of the configuration without the seed), the
        hashes, the numbers that the loss and the optimiser take (`gamma`, `lr`, ...), and the configuration, flat.
    """
    model = config["model"]["init_args"]
    flat = values_with_effect(config)
    short: dict[str, Any] = {}
    for part in ("optimizer", "loss"):
        arguments = (model.get(part) or {}).get("init_args") or {}
        short |= {name: value for name, value in arguments.items() if isinstance(value, int | float)}
    short |= {
        "loss": class_name(model.get("loss")) or "CrossEntropyLoss",
        "architecture": class_name(config["model"]),
        "seed": config[SEED],
        "data_name": manifest.get("data_name"),
        "setting_hash": config_hash(config, with_seed=False)[:12],
    }
    hashes = {f"{name}_hash": value for name, value in manifest.get("hashes", {}).items()}
    return flat | short | hashes


class TrackerSummary(NamedTuple):
    """What is told of a finished run: its folder, and the split that it was evaluated on.

    Args:
        folder: with config.yaml and manifest.json.
        predictions: the split's predictions.npz.
        data: holds the split's images.
        split: "val" or "test".
    """

    folder: RunFolder
    predictions: Path
    data: ImageDataModule
    split: str


def log_summary(run: Any, summary: TrackerSummary) -> None:
    """Log a run's configuration, per-class table, confusion matrix and most confident mistakes to W&B's `run`."""
    import wandb

    folder, predictions, data, split = summary
    manifest, images = folder.manifest(), data.split(split).images.cpu()
    run.config.update(run_config(folder.config(), manifest), allow_val_change=True)
    logits, labels = read_predictions(predictions)
    names = list(manifest["class_counts"])
    called = logits.argmax(axis=1)
    content: dict[str, Any] = {
        PER_CLASS: wandb.Table(
            ["class", "precision", "recall", "f1", "support"], list(_per_class(called, labels, names))
        ),
        CONFUSION: wandb.plot.confusion_matrix(
            y_true=labels.tolist(),
            preds=called.tolist(),
            class_names=names,
            title="validation" if split == "val" else split,
        ),
    }
    content[MISCLASSIFIED] = [
        wandb.Image(
            np.moveaxis(images[mistake.image].numpy(), 0, -1).squeeze(),
            caption=f"{names[mistake.true]} called {names[mistake.predicted]}, {mistake.confidence:.0%}",
        )
        for mistake in find_mistakes(logits[None], labels)[:MOST_IMAGES]
    ]
    run.log(content)


def _per_class(called: np.ndarray, labels: np.ndarray, names: list[str]) -> Iterator[list[Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    measured = precision_recall_fscore_support(labels, called, labels=range(len(names)), zero_division=0)
    for name, precision, recall, f1, support in zip(names, *measured, strict=True):
        yield [name, float(precision), float(recall), float(f1), int(support)]


def tracker_arguments(folder: Path, group: str, name: str, job_type: str) -> dict[str, Any]:
    """What a configured logger is told if its own configuration does not say: where, and what this run is called.

    Every run is a W&B run of its own, also within one process. Without a key W&B works offline, without a question;
    `wandb sync` uploads later.
    """
    arguments: dict[str, Any] = {
        "save_dir": str(folder.absolute()),  # W&B's own process keeps the folder that it was started in
        "name": name,
        "group": group,
        "job_type": job_type,
        "project": "losslab",
        "reinit": "create_new",
    }
    if not wandb_has_key():
        arguments["offline"] = True
    return arguments


def wandb_has_key() -> bool:
    """Whether W&B can be reached without a question: by WANDB_API_KEY, or a login that it remembers."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.is_file() and "wandb" in file.read_text(errors="ignore")


def finish_trackers(trainer: Trainer, summary: TrackerSummary | None = None) -> None:
    """Close what stays open after a fit or a test: Lightning leaves W&B's run to the process's end.

    Args:
        trainer: whose loggers are meant.
        summary: what W&B gets first, if the run is finished.
    """
    for logger in trainer.loggers:
        if isinstance(logger, GuardedLogger) and isinstance(logger.guarded, WandbLogger):
            logger.call(functools.partial(_finish, logger.guarded, summary))


def _finish(logger: WandbLogger, summary: TrackerSummary | None) -> None:
    if summary is not None:
        log_summary(logger.experiment, summary)
    logger.experiment.finish()
