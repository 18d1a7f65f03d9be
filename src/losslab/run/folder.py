"""A run's folder: its files, how it is made, and how it is found again."""

import csv
import datetime
import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import yaml

from losslab.errors import DISK_FAULTS, UserError
from losslab.run.config import Config, config_hash, read_yaml

if TYPE_CHECKING:
    from torch import Tensor

RUNS = Path("runs")
"""Everything that a command writes lies here, under the folder in which it is called."""


class RunFolder:
    """`path`/config.yaml, manifest.json, metrics.csv, predictions.npz and checkpoints/{best,last}.ckpt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / "metrics.csv"
        self.predictions_file = path / "predictions.npz"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Make the folder, which must not exist yet, and write the configuration into it, once.

        Raises:
            UserError: it exists, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            folder = cls(path)
            write_whole(folder.config_file, yaml.safe_dump(config, sort_keys=False))
        except FileExistsError:
            raise UserError(f"the run folder {path} exists already; give another --name or wait a second.") from None
        except OSError as error:
            if error.errno in DISK_FAULTS:
                raise
            raise UserError(f"cannot write the run folder {path}: {error.strerror}.") from None
        return folder

    def config(self) -> Config:
        """The run's whole configuration."""
        return read_yaml(self.config_file)

    def manifest(self) -> dict[str, Any]:
        """The manifest, or {} where there is none or it is not whole."""
        return read_record(self.manifest_file) or {}

    def epochs(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, one an epoch; [] where there is none."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest, at once."""
        write_whole(self.manifest_file, json.dumps(manifest, indent=2) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write into the folder as the only process, and remove what a killed one left half written.

        Raises:
            UserError: another process holds it.
        """
        with self.config_file.open("r+") as file:  # it is never written again, and so its lock needs no file of its own
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.path} is being trained by another process: wait for it, or stop it and continue then."
                ) from None
            for remains in (*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):
                remains.unlink()
            yield

    def checkpoint(self, which: str) -> Path:
        """The "last" or "best" checkpoint.

        Raises:
            UserError: it is not there.
        """
        path = self.checkpoints / f"{which}.ckpt"
        if not path.is_file():
            raise UserError(
                f"{self.path} has no {path.name}: the run was stopped before its first epoch ended, "
                "or its study kept the best trial's checkpoints only."
            )
        return path


def study_name(folder: Path) -> str:
    """A study's name, from its folder: "gamma" for runs/gamma, "gamma/confirm" for its confirmation."""
    return folder.relative_to(RUNS).as_posix() if folder.is_relative_to(RUNS) else folder.name


def new_run_path(name: str, config: Config) -> Path:
    """runs/NAME/UTC time-six digits of the configuration's hash"""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    return RUNS / name / f"{now}-{config_hash(config)[:6]}"


def find_run(where: str | Path, finished: bool) -> RunFolder:
    """The run that `where` names: its folder, or a folder of runs, of which it takes the newest one.

    Args:
        where: the folder.
        finished: take the newest finished run; else the newest unfinished one, or if all are finished, the newest.

    Raises:
        UserError: there is none.
    """
    where = Path(where)
    if (where / "config.yaml").is_file():
        return RunFolder(where)
    runs = [RunFolder(file.parent) for file in sorted(where.glob("*/config.yaml"))]
    done = [run for run in runs if run.manifest().get("status") == "finished"]
    chosen = done if finished else [run for run in runs if run not in done] or runs
    if chosen:
        return chosen[-1]
    others = ", ".join(sorted(str(folder) for folder in RUNS.glob("*") if folder.is_dir())) or "none yet"
    what = f"{len(runs)} run(s), none of them finished" if runs else "no run"
    raise UserError(f"there is {what} in {where}. Runs are in: {others}. `losslab runs` lists them.")


def read_record(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None where there is no such file or it is not whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context for writing `path`: turns an OSError into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and move it into place, so that it is never half there.

    It is on the disk before it has its name, so that a power cut, too, leaves the former file or this one.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with staging.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_predictions(path: Path, evaluated: "tuple[Tensor, Tensor]") -> None:
    """Write logits (N, C) and labels (N,) of a split, in its order, as float32 and int64."""
    logits, labels = evaluated
    content = io.BytesIO()
    np.savez(content, logits=logits.float().numpy(), labels=labels.numpy())
    write_whole(path, content.getvalue())


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The logits (N, C) float32 and labels (N,) int64 of a split, in its order.

    Raises:
        OSError: there is no such file.
        ValueError: it is not whole, or not one that `write_predictions` wrote.
    """
    try:
        with path.open("rb") as file, np.load(file) as content:
            return content["logits"], content["labels"]
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} does not hold the logits and labels of a split: validate or test its run again"
        ) from error
