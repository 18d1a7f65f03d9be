"""What the runs of a setting left behind: predictions, epochs, configuration."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from losslab.errors import UserError
from losslab.run.folder import RunFolder, read_predictions
from losslab.study.results import SettingResults


class Predictions(NamedTuple):
    """Of one setting on the validation split, for the S seeds whose runs are there.

    Args:
        logits: (S, N, C) float32.
        labels: (N,) int64, the same for all.
    """

    logits: np.ndarray
    labels: np.ndarray


def setting_predictions(study: Path, setting: SettingResults) -> Predictions | None:
    """The predictions of the setting's runs; None where there are none, or they are of different images."""
    logits, labels = [], []
    for run in setting.runs:
        try:
            run_logits, run_labels = read_predictions(RunFolder(study / run).predictions_file)
        except (OSError, ValueError):
            continue
        logits.append(run_logits)
        labels.append(run_labels)
    if not logits or any(len(part) != len(labels[0]) or (part != labels[0]).any() for part in labels):
        return None
    return Predictions(np.stack(logits), labels[0])


def read_epochs(study: Path, setting: SettingResults, keys: list[str]) -> dict[str, np.ndarray]:
    """The mean over the seeds of each key after each epoch, (epochs,); keys that the runs do not have are left out."""
    tables = []
    for run in setting.runs:
        try:
            with RunFolder(study / run).metrics_file.open(newline="") as file:
                tables.append(list(csv.DictReader(file)))
        except OSError:
            continue
    epochs = min((len(table) for table in tables), default=0)
    means = {}
    for key in keys:
        values = [[table[epoch].get(key) or "nan" for epoch in range(epochs)] for table in tables]
        numbers = np.array(values, dtype=float).reshape(len(tables), epochs)
        if numbers.size and not np.isnan(numbers).any():
            means[key] = numbers.mean(axis=0)
    return means


def read_config(study: Path, setting: SettingResults) -> dict[str, Any]:
    """The configuration of the setting's first run, {} where it cannot be read."""
    try:
        return RunFolder(study / setting.runs[0]).config()
    except (UserError, IndexError):
        return {}


def focal_gamma(config: dict[str, Any]) -> float | None:
    """Gamma, if the configured loss is focal loss and nothing but; else None."""
    loss = ((config.get("model") or {}).get("init_args") or {}).get("loss") or {}
    arguments = loss.get("init_args") or {}
    if not str(loss.get("class_path", "")).endswith(".FocalLoss") or arguments.get("class_weights") is not None:
        return None
    return float(arguments.get("gamma", 2.0)) if not arguments.get("label_smoothing") else None
