"""The origin of a run: code, versions, data, configuration; and the count of test reads."""

import contextlib
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
from losslab.run.folder import RUNS, writing

_log = logging.getLogger("losslab")

PACKAGES = ("losslab", "torch", "lightning", "torchmetrics", "optuna", "jsonargparse", "numpy", "scikit-learn")
TEST_READS = RUNS / "test_reads.jsonl"


def new_manifest(config: Config, data: ImageDataModule) -> dict[str, Any]:
    """Return a run's manifest as of the start of its training.

    Returns:
        time (UTC), git commit and whether files differ from it, versions, data name, SHA-256 of images, split and
        configuration, images per class, seed, precision.
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
    """Raise UserError unless the run with this manifest was trained on the images of `data`.

    Without this check, a model trained on MNIST could be tested on mnist-5k, whose test images it has seen. A damaged
    manifest does not allow the check; then a notice is logged.
    """
    if "hashes" not in manifest:
        _log.warning("NOTICE: %s/manifest.json is damaged: the run may have been trained on other images.", run)
    trained, known = manifest.get("data_name", data.data_name), manifest.get("hashes", {})
    if trained != data.data_name or any(known.get(name, value) != value for name, value in data.hashes.items()):
        raise UserError(
            f"{run} was trained on {trained}, and these are other images ({data.data_name}): "
            "set MNIST_DIR or data.root to the images of the training."
        )


def utc_now() -> str:
    """Return the time in UTC, as 2026-01-31T12:00:00+00:00."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache  # once a process, whose code does not change
def git_state() -> dict[str, Any]:
    """Return the commit of the current folder and whether files differ from it; None outside a repository."""
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
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def note_test_read(config: Config, data_name: str, run: Path) -> None:
    """Append a read of the test images to runs/test_reads.jsonl, before the read.

    Raises:
        UserError: the file cannot be written; then the test images may not be read.
    """
    line = {"at": utc_now(), "config_hash": config_hash(config), "data_name": data_name, "run": str(run), **git_state()}
    with writing(TEST_READS):
        RUNS.mkdir(exist_ok=True)
        with TEST_READS.open("a+b") as file:
            # After an incomplete line, left by a full disk, this one starts on a new line.
            torn = file.seek(0, 2) > 0 and (file.seek(-1, 2), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")


def earlier_reads(config_hashes: set[str], data_name: str) -> list[dict[str, Any]]:
    """Return the noted reads of these configurations (with seed) on this data set; incomplete lines are ignored."""
    reads = []
    for line in TEST_READS.read_text().splitlines() if TEST_READS.exists() else ():
        with contextlib.suppress(ValueError):
            reads.append(json.loads(line))
    return [
        read
        for read in reads
        if read.get("config_hash") in config_hashes and read.get("data_name", data_name) == data_name
    ]
