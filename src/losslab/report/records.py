"""Predictions, epochs, configurations, images and origins of a study's runs."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from losslab.errors import UserError
from losslab.report.figure import Table
from losslab.run import CommandLine, RunFolder, read_predictions, read_record, require_same_data
from losslab.study import Result, SettingResults


class Predictions(NamedTuple):
    """A setting's predictions of the validation split, for the S seeds whose predictions.npz exists.

    Args:
        logits: (S, N, C) float32.
        labels: (N,) int64, the same for all seeds.
    """

    logits: np.ndarray
    labels: np.ndarray


def setting_predictions(study: Path, setting: SettingResults) -> Predictions | None:
    """Return the predictions of the setting's runs; None if there are none, or if their labels differ."""
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
    """Return the mean over the seeds of each key after each epoch, (epochs,); keys that a run lacks are left out."""
    tables = [table for run in setting.runs if (table := RunFolder(study / run).epochs())]
    epochs = min((len(table) for table in tables), default=0)
    means = {}
    for key in keys:
        values = [[table[epoch].get(key) or "nan" for epoch in range(epochs)] for table in tables]
        numbers = np.array(values, dtype=float).reshape(len(tables), epochs)  # (S, epochs)
        if numbers.size and not np.isnan(numbers).any():
            means[key] = numbers.mean(axis=0)
    return means


def read_config(study: Path, setting: SettingResults) -> dict[str, Any]:
    """Return the configuration of the setting's first run; {} if it cannot be read."""
    try:
        return RunFolder(study / setting.runs[0]).config()
    except (UserError, IndexError):
        return {}


def focal_gamma(config: dict[str, Any]) -> float | None:
    """Return gamma if the loss is FocalLoss without class weights and label smoothing; else None."""
    loss = ((config.get("model") or {}).get("init_args") or {}).get("loss") or {}
    arguments = loss.get("init_args") or {}
    if not str(loss.get("class_path", "")).endswith(".FocalLoss") or arguments.get("class_weights") is not None:
        return None
    return float(arguments.get("gamma", 2.0)) if not arguments.get("label_smoothing") else None


def validation_images(run: Path) -> np.ndarray:
    """Return the images of a run's validation split, in its order: (N, channels, height, width) uint8.

    Raises:
        UserError: the images cannot be read, or differ from the images that the run was trained on.
    """
    folder = RunFolder(run)
    command_line = CommandLine(["--config", str(folder.config_file)], "losslab report", recorded=True)
    config = command_line.resolved()
    config["trainer"] = {"accelerator": "cpu"}  # nothing is trained: no tracker, and no device that may be missing
    command_line.parse_config(config)
    data = command_line.build().data
    data.prepare_data()
    data.setup("fit")
    require_same_data(folder.manifest(), data, run)
    return data.split("val").images.cpu().numpy()


def provenance_table(folder: Path, results: list[Result]) -> Table:
    """Return code, data, split, configurations, seeds, versions, devices and seconds of a study's results."""
    manifest = RunFolder(folder / results[0]["run"]).manifest() if "run" in results[0] else {}
    commits = {f"{result.get('git_commit')}{', with changes' if result.get('git_dirty') else ''}" for result in results}
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    seconds = sum(result.get("seconds", 0.0) for result in results)

    def distinct(key: str) -> str:
        return ", ".join(sorted({result.get(key, "?") for result in results}))

    rows = [
        ["commit", ", ".join(sorted(commits)).replace("None", "not in a repository")],
        ["images", distinct("data_name")],
        ["data (SHA-256)", _hashes(results, "train")],
        ["split (SHA-256)", _hashes(results, "split")],
        ["configurations", f"{len({result['setting_hash'] for result in results})}, {len(results)} trainings"],
        ["training images", _class_counts(results)],
        ["seeds", ", ".join(map(str, sorted({result["seed"] for result in results})))],
        ["versions", versions or "not recorded"],
        ["device", distinct("device")],
        ["precision", distinct("precision")],
        ["seconds", f"{seconds:.0f} of training, {seconds / len(results):.1f} for each"],
        ["started", min(result.get("started_at", "?") for result in results)],
    ]
    return Table(["what", "value"], rows)


def reproduce_commands(folder: Path) -> list[str]:
    """Return the commands that reproduce the study and its page."""
    command = (read_record(folder / "study.json") or {}).get("command")
    study = shlex.quote(str(folder))
    best = shlex.quote(f"{folder}/best.yaml")
    return [*([command] if command else []), f"losslab report {study}", f"losslab fit --config {best}"]


def _hashes(results: list[Result], name: str) -> str:
    values = {result["hashes"][name] for result in results if name in result.get("hashes", {})}
    return min(values, default="not recorded") + (f" and {len(values) - 1} more" if len(values) > 1 else "")


def _class_counts(results: list[Result]) -> str:
    counts: dict[str, int] = results[0].get("class_counts", {})
    if not counts:
        return "not recorded"
    total, low, high = sum(counts.values()), min(counts.values()), max(counts.values())
    classes = f"{low:,} of each class" if low == high else f"{high:,} of the largest class, {low:,} of the smallest"
    return f"{total:,}: {classes}"
