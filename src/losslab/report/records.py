"""Predictions, epochs, configurations, images and origins of a study's runs."""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from losslab.errors import UserError
from losslab.report.figure import Table
from losslab.run import CommandLine, RunFolder, read_predictions, read_record, require_same_data
from losslab.study import Result, SettingResults

CONFIRM_FOLDER = "confirm"


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


NOT_IN_CLASS_COUNTS = ("root", "batch_size", "eval_batch_size", "augmentation", "split_seed", "validation")
"""Arguments of data that leave the number of training images of each class as it is."""


def loss_identity(config: dict[str, Any], loss: Any = None, by_frequency: bool = False) -> str:
    """Return a text that is the same for configurations whose values of the loss are on the same scale.

    Args:
        config: a resolved configuration.
        loss: describes the built loss, which a network of the user's own may make itself; None: the configuration's.
        by_frequency: whether the loss depends on class frequencies; its scale then is one only for the same data.
    """
    given = ((config.get("model") or {}).get("init_args") or {}).get("loss")
    data = config.get("data") or {}
    counted = {k: v for k, v in (data.get("init_args") or {}).items() if k not in NOT_IN_CLASS_COUNTS}
    return json.dumps([loss or given, [data.get("class_path"), counted] if by_frequency else None], sort_keys=True)


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
    accepted = [f"{', '.join(sorted(change['former']))} (accepted {change['at']})" for change in _code_changes(folder)]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    seconds = sum(result.get("seconds", 0.0) for result in results)

    def distinct(key: str) -> str:
        return ", ".join(sorted({result.get(key, "?") for result in results}))

    rows = [
        ["losslab", ", ".join(sorted(set(map(losslab_origin, results))))],
        ["your repository", ", ".join(sorted({_commit(r.get("git_commit"), r.get("git_dirty")) for r in results}))],
        ["code that changed", "; ".join(accepted) or "none"],
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


def changed_code_text(folder: Path, results: list[Result]) -> str:
    """Return ", code changed: mine.MyLoss (4 of 12 results are of other code)" if a user has accepted that, else ""."""
    former = {pair for change in _code_changes(folder) for pair in change["former"].items()}
    if not former:
        return ""
    former -= (read_record(folder / "study.json") or {}).get("code", {}).items()
    count = sum(not former.isdisjoint(result.get("code", {}).items()) for result in results)
    of_other = f" ({count} of {len(results)} results {'is' if count == 1 else 'are'} of other code)" if count else ""
    names = sorted({name for change in _code_changes(folder) for name in change["former"]})
    return f", code changed: {', '.join(names)}{of_other}"


def _code_changes(folder: Path) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = (read_record(folder / "study.json") or {}).get("code_changes", [])
    return changes


def losslab_origin(record: Result) -> str:
    """Return the version and the commit of the losslab that a result or a run was made with."""
    losslab = record.get("losslab")
    if losslab is None:
        return "not recorded"
    return f"{losslab['version']}, {_commit(losslab['commit'], losslab['dirty'])}"


def _commit(commit: str | None, dirty: bool | None) -> str:
    return f"commit {commit}{', with changes' if dirty else ''}" if commit else "not in a repository"


def confirmation_folders(study: Path) -> list[Path]:
    """Return runs/<study>/confirm, confirm-2 and so on, in this order."""
    found = [file.parent for file in study.glob(f"{CONFIRM_FOLDER}*/study.yaml")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def reproduce_commands(folder: Path) -> list[str]:
    """Return the commands that reproduce the study, its confirmations and its page, and train the choice."""
    records = (read_record(part / "study.json") or {} for part in (folder, *confirmation_folders(folder)))
    commands = [record["command"] for record in records if record.get("command")]
    study, best = shlex.quote(str(folder)), shlex.quote(f"{folder}/best.yaml")
    return [*commands, f"losslab report {study}", f"losslab fit --config {best}"]


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
