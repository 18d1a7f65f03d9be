"""What W&B gets of a finished run beside its metrics: who it is, and its classes, confusions and mistakes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from losslab.data import ImageDataModule
from losslab.run.config import SEED, Config, config_hash, values_with_effect
from losslab.run.predictions import read_predictions
from losslab.run.run_folder import RunFolder

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
        "loss": _class_name(model.get("loss")) or "CrossEntropyLoss",
        "architecture": _class_name(config["model"]),
        "seed": config[SEED],
        "data_name": manifest.get("data_name"),
        "setting_hash": config_hash(config, with_seed=False)[:12],
    }
    hashes = {f"{name}_hash": value for name, value in manifest.get("hashes", {}).items()}
    return flat | short | hashes


class Summary(NamedTuple):
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


def log_summary(run: Any, summary: Summary) -> None:
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
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = shifted.max(axis=1) / shifted.sum(axis=1)
    wrong = np.flatnonzero(called != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_IMAGES]
    content[MISCLASSIFIED] = [
        wandb.Image(
            np.moveaxis(images[i].numpy(), 0, -1).squeeze(),
            caption=f"{names[labels[i]]} called {names[called[i]]}, {confidence[i]:.0%}",
        )
        for i in worst.tolist()
    ]
    run.log(content)


def _per_class(called: np.ndarray, labels: np.ndarray, names: list[str]) -> Iterator[list[Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    measured = precision_recall_fscore_support(labels, called, labels=range(len(names)), zero_division=0)
    for name, precision, recall, f1, support in zip(names, *measured, strict=True):
        yield [name, float(precision), float(recall), float(f1), int(support)]


def _class_name(part: Any) -> str:
    return str(part["class_path"]).rsplit(".", 1)[-1] if isinstance(part, dict) and "class_path" in part else ""
