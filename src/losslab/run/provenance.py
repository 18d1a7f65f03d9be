"""The origin of a run: code, versions, data, configuration; and the count of test reads."""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losslab.data import ImageDataModule
from losslab.errors import UserError, notice
from losslab.run.code import changed_code, code_digests
from losslab.run.config import SEED, Config, config_hash
from losslab.run.folder import RUNS, writing
from losslab.run.precision import float32_precision

PACKAGES = ("losslab", "torch", "lightning", "torchmetrics", "optuna", "jsonargparse", "numpy", "scikit-learn")
ACCEPT = "--accept-code-change"
TEST_READS = RUNS / "test_reads.jsonl"

BATCH_LIMITS = [f"limit_{split}_batches" for split in ("train", "val", "test", "predict")]
CONDITIONS = {"fast_dev_run": False, **dict.fromkeys(BATCH_LIMITS, 1.0), "overfit_batches": 0.0}
"""Arguments of the Trainer that leave out batches, with the values under which they leave out none."""


def new_manifest(config: Config, data: ImageDataModule) -> dict[str, Any]:
    """Return a run's manifest as of the start of its training.

    Returns:
        time (UTC), git commit and whether files differ from it, versions, data name, SHA-256 of images, split and
        configuration, digests of the code that the configuration names, images per class, seed, precision,
        `conditions`.
    """
    return {
        "started_at": utc_now(),
        **git_state(),
        "versions": {"python": platform.python_version(), **_versions()},
        "data_name": data.data_name,
        "hashes": {"config": config_hash(config), **data.hashes},
        "code": code_digests(config),
        "class_counts": dict(zip(data.class_names, data.class_counts.tolist(), strict=True)),
        "seed": config[SEED],
        "precision": config["trainer"]["precision"] or "32-true",
        "float32": float32_precision(),
        "conditions": conditions(config),
    }


def conditions(config: Config) -> dict[str, Any]:
    """Return the Trainer's arguments that leave out batches, with their values; {} if each split is read as a whole."""
    given = {name: config["trainer"].get(name) for name in CONDITIONS}
    return {
        name: value
        for name, value in given.items()
        if value is not None and (value != CONDITIONS[name] or (value == 1 and isinstance(value, int)))  # one batch
    }


def continue_code(
    record: Mapping[str, Any], ours: Mapping[str, str], where: Path, instead: str, accept: bool
) -> dict[str, Any]:
    """Return the entries `code` and `code_changes` of a run or a study that goes on with the code of this process.

    Args:
        record: the manifest or study.json; one of before code was recorded has no such entry, and gets it.
        ours: the digests of this process.
        where: the folder of the run or study.
        instead: how to begin anew, for the message.
        accept: whether the user accepts that code changed. Then `code_changes` gets a line with the former digests.

    Raises:
        UserError: code changed, and `accept` is False.
    """
    known, changes = record.get("code", {}), record.get("code_changes", [])
    if names := changed_code(known, ours):
        if not accept:
            raise UserError(
                f"the code of {', '.join(names)}, or what it uses, has changed since {where} was trained: undo the "
                f"change, {instead}, or continue with {ACCEPT}, which is recorded."
            )
        changes = [*changes, {"at": utc_now(), "former": {name: known[name] for name in names}}]
    return {"code": {**known, **ours}} | ({"code_changes": changes} if changes else {})


def require_same_data(manifest: dict[str, Any], data: ImageDataModule, run: Path) -> None:
    """Raise UserError unless the run with this manifest was trained on the images of `data`.

    Without this check, a model trained on MNIST could be tested on mnist-5k, whose test images it has seen. A damaged
    manifest does not allow the check; then a notice is logged.
    """
    if "hashes" not in manifest:
        notice(f"{run}/manifest.json is damaged: the run may have been trained on other images.")
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
    """Return the commits of the user's repository and of losslab's, and whether files differ from them.

    Returns:
        git_commit and git_dirty of the current folder, and `losslab` with version, commit and dirty. What is unknown is
        None: outside a repository, and for a losslab that was installed from a package index.
    """
    package = Path(__file__).parents[1]
    commit, dirty = _commit(Path())
    # A virtual environment inside the user's repository is not a checkout of losslab: its files are not tracked.
    is_tracked = _git(package, "ls-files", "--error-unmatch", "errors.py")
    own_commit, own_dirty = _commit(package, ".") if is_tracked else _installed_from()
    losslab = {"version": _versions().get("losslab"), "commit": own_commit, "dirty": own_dirty}
    return {"git_commit": commit, "git_dirty": dirty, "losslab": losslab}


def _commit(folder: Path, *of: str) -> tuple[str | None, bool | None]:
    """Return the commit of a folder's repository, and whether files differ from it; `of`: only these files."""
    commit, status = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", *of)
    return commit, None if status is None else bool(status)


def _installed_from() -> tuple[str | None, bool | None]:
    """Return the commit that losslab was installed from by `pip install git+https://...`."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, AttributeError, KeyError):
        origin = json.loads(importlib.metadata.distribution("losslab").read_text("direct_url.json") or "{}")
        return origin["vcs_info"]["commit_id"], False
    return None, None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
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
    of_data = [read for read in reads if read.get("data_name", data_name) == data_name]
    return [read for read in of_data if read.get("config_hash") in config_hashes]
