"""Where a run came from: code, versions, data, configuration, device."""

import datetime
import functools
import importlib.metadata
import json
import logging
import platform
import subprocess
from pathlib import Path
from typing import Any

from losslab.data import ImageDataModule
from losslab.errors import UserError
from losslab.run.config import SEED, Config, config_hash
from losslab.run.folder import RUNS

_log = logging.getLogger("losslab")

PACKAGES = ("losslab", "torch", "lightning", "torchmetrics", "optuna", "jsonargparse", "numpy", "scikit-learn")


def new_manifest(config: Config, data: ImageDataModule) -> dict[str, Any]:
    """What a manifest records before training starts.

    Returns:
        git commit and whether files differed from it, versions, data name, SHA-256 of images, split and
        configuration, seed, precision.
    """
    return {
        "started_at": utc_now(),
        **git_state(),
        "versions": {"python": platform.python_version(), **_versions()},
        "data_name": data.data_name,
        "hashes": {"config": config_hash(config), **data.hashes},
        "class_counts": dict(zip(data.class_names, data.class_counts.tolist(), strict=True)),
        "seed": config[SEED],
        "precision": config["trainer"]["precision"] or "32-true",
    }


def require_same_data(manifest: dict[str, Any], data: ImageDataModule, run: Path) -> None:
    """Raise UserError unless `data` are the images that the run with this manifest was trained on.

    A model trained on MNIST has seen the images of mnist-5k's test split: such pairs are refused. Where the manifest is
    not whole, that cannot be told, and a notice says so.
    """
    if "hashes" not in manifest:
        _log.warning("NOTICE: %s/manifest.json is not whole: it may have been trained on other images.", run)
    trained, known = manifest.get("data_name", data.data_name), manifest.get("hashes", {})
    if trained != data.data_name or any(known.get(name, value) != value for name, value in data.hashes.items()):
        raise UserError(
            f"{run} was trained on {trained}, and these are other images ({data.data_name}): "
            "set MNIST_DIR or data.root to the images that it was trained on."
        )


def utc_now() -> str:
    """The time, as 2026-01-31T12:00:00+00:00."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache  # once a process: a sweep has one state of the code
def git_state() -> dict[str, Any]:
    """The commit of the folder in which the command runs, None outside a repository."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def note_test_read(config: Config, data_name: str, run: Path) -> None:
    """Add a line.

    Raises:
        UserError: it cannot be written; then nothing may be read.
    """
    line = {"at": utc_now(), "config_hash": config_hash(config), "data_name": data_name, "run": str(run), **git_state()}
    try:
        RUNS.mkdir(exist_ok=True)
        with _file().open("a+b") as file:
            # A line that a full disk left half written must not swallow this one.
            torn = file.seek(0, 2) > 0 and (file.seek(-1, 2), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot note the test in {_file()}: {error.strerror}.") from None


def earlier_reads(config_hashes: set[str], data_name: str) -> list[dict[str, Any]]:
    """The reads of these configurations, seed included, on this data set; a line that is not whole is left out."""
    try:
        lines = _file().read_text().splitlines()
    except FileNotFoundError:
        return []
    reads = []
    for line in lines:
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if read.get("config_hash") in config_hashes and read.get("data_name", data_name) == data_name:
            reads.append(read)
    return reads


def _file() -> Path:
    return RUNS / "test_reads.jsonl"
