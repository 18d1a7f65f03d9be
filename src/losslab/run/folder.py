"""A run's folder: made, found, and its files written and read."""

import csv
import datetime
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from losslab.errors import DISK_FAULTS, UserError, expand_path
from losslab.run.config import Config, config_hash
from losslab.run.values import dump_yaml, read_yaml

if TYPE_CHECKING:
    from torch import Tensor

RUNS = Path("runs")
"""The folder of all that losslab writes, in the current folder."""


class RunFolder:
    """The files of a run: config.yaml, manifest.json, metrics.csv, predictions.npz, checkpoints/{best,last}.ckpt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / "metrics.csv"
        self.predictions_file = path / "predictions.npz"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Make a new folder, and write the configuration into it.

        Raises:
            UserError: the folder exists already, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            folder = cls(path)
            write_whole(folder.config_file, dump_yaml(config))
        except FileExistsError:
            raise UserError(f"the run folder {path} exists already; give another --name or wait a second.") from None
        except OSError as error:
            if error.errno in DISK_FAULTS:
                raise
            raise UserError(f"cannot write the run folder {path}: {error.strerror}.") from None
        return folder

    def config(self) -> Config:
        """Return the run's whole configuration."""
        return read_yaml(self.config_file)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; {} if it is missing or damaged."""
        return read_record(self.manifest_file) or {}

    def status(self) -> str:
        """Return "finished" if the run reached the end that its configuration sets, else why it did not.

        "partial (...)" for a run that was cut short, "interrupted" by a signal, "failed", or "running", also after a
        kill.
        """
        manifest = self.manifest()
        reason = f" ({manifest['partial_reason']})" if "partial_reason" in manifest else ""
        return f"{manifest.get('status', 'unreadable manifest')}{reason}"

    def epochs(self) -> list[dict[str, str]]:
        """Return the rows of metrics.csv, one for each epoch; [] without that file."""
        if not self.metrics_file.is_file():
            return []
        with self.metrics_file.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest atomically."""
        write_whole(self.manifest_file, json.dumps(manifest, indent=2) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context that locks the folder for this process, and removes temporary files of a killed one.

        Raises:
            UserError: another process holds the lock.
        """
        with self.config_file.open("r+") as file:  # config.yaml is never rewritten, so it can carry the lock
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = "is being trained by another process: wait until it ends, or stop it, then continue"
                raise UserError(f"{self.path} {now}.") from None
            for remains in (*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")):
                remains.unlink()
            yield

    def checkpoint(self, which: str) -> Path:
        """Return the path of the "last" or "best" checkpoint.

        Raises:
            UserError: there is no such file.
        """
        path = self.checkpoints / f"{which}.ckpt"
        if not path.is_file():
            raise UserError(
                f"{self.path} has no {path.name}: the run was stopped before its first epoch ended, "
                "or its study keeps only the best trial's checkpoints."
            )
        return path


def study_name(folder: Path) -> str:
    """Return a study's name: "gamma" for the folder runs/gamma, "gamma/confirm" for its confirmation."""
    return folder.relative_to(RUNS).as_posix() if folder.is_relative_to(RUNS) else folder.name


def named_folder(name: str) -> Path:
    """Return runs/NAME.

    Raises:
        UserError: the name is a path, to a folder where `losslab runs` finds nothing.
    """
    if name in ("", ".", "..") or name.startswith("~") or {"/", "$"} & set(name):
        raise UserError(f"--name must be the name of a folder in {RUNS}/, such as gamma-2, got {name!r}.")
    return RUNS / name


def new_run_path(name: str, config: Config) -> Path:
    """Return the path of a new run: runs/NAME/UTC time-first six digits of the configuration's hash."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    return named_folder(name) / f"{now}-{config_hash(config)[:6]}"


def find_run(where: str | Path, finished: bool) -> RunFolder:
    """Return the run in a folder, or the newest run in a folder of runs.

    Args:
        where: the folder.
        finished: return the newest finished run; if False, the newest that may be continued, or else the newest.

    Raises:
        UserError: there is no such run.
    """
    where = expand_path(where, "the run's folder")
    if (where / "config.yaml").is_file():
        return RunFolder(where)
    runs = [RunFolder(file.parent) for file in sorted(where.glob("*/config.yaml"))]
    ended = ("finished",) if finished else ("finished", "partial")
    chosen = [run for run in runs if run.status().startswith(ended) == finished] or ([] if finished else runs)
    if chosen:
        return chosen[-1]
    others = ", ".join(sorted(str(folder) for folder in RUNS.glob("*") if folder.is_dir())) or "none yet"
    found = f"{len(runs)} run(s), none of them finished" if runs else "no run"
    states = f" ({', '.join(f'{run.path.name}: {run.status()}' for run in runs[-3:])})" if runs else ""
    raise UserError(f"there is {found} in {where}{states}. Runs are in: {others}. `losslab runs` lists them.")


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file; None if the file is missing, damaged, or holds no mapping."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context for writing `path`: an OSError becomes a UserError that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: write it under a temporary name, then move it into place.

    Its content is on the disk before the move, so that even a power cut leaves either the former file or this one.
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


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of cells as CSV."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()


def write_predictions(path: Path, evaluated: "tuple[Tensor, Tensor]") -> None:
    """Write the logits (N, C) and labels (N,) of a split, in the order of its images, as float32 and int64.

    An image that the loss ignores has the label -1, and is counted nowhere.
    """
    logits, labels = evaluated
    content = io.BytesIO()
    np.savez(content, logits=logits.float().numpy(), labels=labels.numpy())
    write_whole(path, content.getvalue())


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (N, C) float32 and labels (N,) int64 of a split, in the order of its images.

    Raises:
        OSError: there is no such file.
        ValueError: the file is damaged, or was not written by `write_predictions`.
    """
    try:
        with path.open("rb") as file, np.load(file) as content:
            return content["logits"], content["labels"]
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} does not hold a split's logits and labels: validate or test its run again") from error
