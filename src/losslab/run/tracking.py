"""Trackers such as W&B and TensorBoard: guarded against failures, configured, and given a run's final tables."""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from jsonargparse import Namespace
from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from losslab.data import ImageDataModule
from losslab.errors import notice
from losslab.metrics import find_mistakes
from losslab.run.config import SEED, Config, as_list, class_name, config_hash, values_with_effect
from losslab.run.folder import RunFolder, read_predictions

PATIENCE = 60.0
"""Seconds that one call may take before the tracker counts as hanging."""

MOST_IMAGES = 50
PER_CLASS, CONFUSION, MISCLASSIFIED = "per_class", "confusion", "misclassified"


def _guarded_property(name: str) -> Any:
    return property(lambda self: self.call(lambda: getattr(self.guarded, name)))


def _guarded_method(name: str) -> Any:
    return lambda self, *args, **kwargs: self.call(lambda: getattr(self.guarded, name)(*args, **kwargs))


class GuardedLogger(Logger):
    """Calls another logger in a separate thread. After its first failure (one warning) it is not called again.

    Args:
        logger: the wrapped logger.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.guarded = logger
        self.failed = False
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None

    def call(self, function: Callable[[], Any], otherwise: Any = None) -> Any:
        """Return the result of `function`, or `otherwise` if the tracker fails or has failed before."""
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
            hangs = isinstance(error, TimeoutError) and not answer.done()
            failure = f"no answer for {PATIENCE:.0f} s" if hangs else f"{type(error).__name__}: {error}".splitlines()[0]
            failed = f"{type(self.guarded).__name__} failed ({failure})"
            notice(f"{failed}. The training goes on without it; the run's own records are complete.")
            return otherwise

    @property
    def experiment(self) -> Any:
        """The tracker's own object; after a failure, one that accepts every call and does nothing."""
        return self.call(lambda: self.guarded.experiment, _DummyExperiment())  # type: ignore[attr-defined]

    name = _guarded_property("name")
    version = _guarded_property("version")
    save_dir = _guarded_property("save_dir")
    log_metrics = _guarded_method("log_metrics")
    log_hyperparams = _guarded_method("log_hyperparams")
    log_graph = _guarded_method("log_graph")
    save = _guarded_method("save")
    finalize = _guarded_method("finalize")
    after_save_checkpoint = _guarded_method("after_save_checkpoint")


def _serve(calls: "SimpleQueue[tuple[Callable[[], Any], Future[Any]]]") -> None:
    while True:
        function, answer = calls.get()
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def guard_loggers(loggers: Any) -> list[GuardedLogger]:
    """Return the configured loggers, guarded; none for True, Lightning's default, since losslab has its own records."""
    return [GuardedLogger(logger) for logger in as_list(loggers) if logger is not True]


def complete_loggers(loggers: Any, arguments: Config) -> None:
    """Set those `arguments` of the configured loggers that their configuration leaves open, in place."""
    for logger in as_list(loggers):
        if isinstance(logger, Namespace):
            for name, value in arguments.items():
                if name in logger.init_args and logger.init_args[name] in (None, ".", False):
                    logger.init_args[name] = value


def tracker_arguments(folder: Path, group: str, name: str, job_type: str) -> dict[str, Any]:
    """Return the arguments for loggers whose configuration leaves them open: the folder, and the names of this run.

    Each run is a separate W&B run, also within one process. Without a key W&B works offline and asks no question;
    `wandb sync` uploads later.
    """
    return {
        "save_dir": str(folder.absolute()),  # W&B's own process stays in the folder in which it was started
        "name": name,
        "group": group,
        "job_type": job_type,
        "project": "losslab",
        "reinit": "create_new",
        **({} if wandb_has_key() else {"offline": True}),
    }


def wandb_has_key() -> bool:
    """Return whether W&B needs no login: WANDB_API_KEY is set, or an earlier login is stored."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.is_file() and "wandb" in file.read_text(errors="ignore")


class TrackerSummary(NamedTuple):
    """A finished run and the split that it was evaluated on, for the trackers' final tables.

    Args:
        folder: the run's folder, with config.yaml and manifest.json.
        predictions: the split's predictions.npz.
        data: holds the split's images.
        split: "val" or "test".
    """

    folder: RunFolder
    predictions: Path
    data: ImageDataModule
    split: str


def finish_trackers(trainer: Trainer, summary: TrackerSummary | None = None) -> None:
    """Close W&B's run after a fit or a test; Lightning leaves it open until the process ends.

    Args:
        trainer: holds the loggers.
        summary: logged to W&B first, if the run is finished.
    """
    for logger in trainer.loggers:
        if isinstance(logger, GuardedLogger) and isinstance(logger.guarded, WandbLogger):
            logger.call(functools.partial(_finish, logger.guarded, summary))


def _finish(logger: WandbLogger, summary: TrackerSummary | None) -> None:
    if summary is not None:
        _log_summary(logger.experiment, summary)
    logger.experiment.finish()


def _log_summary(run: Any, summary: TrackerSummary) -> None:
    """Log a run's configuration, per-class table, confusion matrix and most confident mistakes to W&B's `run`."""
    import wandb
    from sklearn.metrics import precision_recall_fscore_support

    folder, predictions, data, split = summary
    manifest, images = folder.manifest(), data.split(split).images.cpu()
    run.config.update(run_config(folder.config(), manifest), allow_val_change=True)
    logits, labels = read_predictions(predictions)
    names = list(manifest["class_counts"])
    mistakes_first = find_mistakes(logits[None], labels)[:MOST_IMAGES]  # logits of one run: (1, N, C)
    logits, labels = logits[labels >= 0], labels[labels >= 0]  # without the images that the loss ignores
    predicted = logits.argmax(axis=1)  # (N,)
    scores = precision_recall_fscore_support(labels, predicted, labels=range(len(names)), zero_division=0)
    rows = [list(row) for row in zip(names, *(score.tolist() for score in scores), strict=True)]
    per_class = wandb.Table(["class", "precision", "recall", "f1", "support"], rows)
    title = "validation" if split == "val" else split
    true, called = labels.tolist(), predicted.tolist()
    confusion = wandb.plot.confusion_matrix(y_true=true, preds=called, class_names=names, title=title)
    mistakes = [
        wandb.Image(
            np.moveaxis(images[mistake.image].numpy(), 0, -1).squeeze(),  # (height, width, channels), or without these
            caption=f"{names[mistake.true]} called {names[mistake.predicted]}, {mistake.confidence:.0%}",
        )
        for mistake in mistakes_first
    ]
    run.log({PER_CLASS: per_class, CONFUSION: confusion, MISCLASSIFIED: mistakes})


def run_config(config: Config, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration for trackers, flat, with short names for the values to filter and group by.

    Args:
        config: the run's whole configuration.
        manifest: the run's manifest.

    Returns:
        `loss`, `architecture`, `seed`, `data_name`, `setting_hash` (of the configuration without the seed), the
        hashes, the numeric arguments of the loss and the optimiser (`gamma`, `lr`, ...), and each value that affects
        the result under its dotted path.
    """
    model = config["model"]["init_args"]
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
    return values_with_effect(config) | short | hashes
