"""A study's results: one file for each setting and seed, written exactly once."""

import errno
import json
import os
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""setting (arm, values), label, setting_hash, seed, metrics (by key, after the last epoch), data_name, seconds, ..."""

NEEDED = {"label", "order", "seed", "metrics"}
"""What a file must hold to count as a result."""


def result_path(study_folder: Path, setting_hash: str, seed: int) -> Path:
    """results/<setting's hash>/<seed>.json"""
    return study_folder / "results" / setting_hash / f"{seed}.json"


def read_result(path: Path) -> Result | None:
    """The result, or None where there is none or the file is not whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() >= NEEDED else None


def write_result(path: Path, result: Result) -> bool:
    """Write a result unless there is one: whole, under another name, then linked, which fails if the name is taken.

    Returns:
        Whether this was the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staging.open("w") as file:
            json.dump(result, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        return _write_without_links(path, staging)
    finally:
        staging.unlink(missing_ok=True)
    return True


def _write_without_links(path: Path, staging: Path) -> bool:
    """For file systems without hard links: the name is taken first and then filled; a half one counts as none."""
    try:
        with path.open("x") as file:
            file.write(staging.read_text())
    except FileExistsError:
        return False
    return True


def read_results(study_folder: Path) -> list[Result]:
    """All whole results of a study, ordered by setting and seed."""
    found = (read_result(path) for path in _result_files(study_folder))
    return sorted((r for r in found if r is not None), key=lambda r: (r["order"], r["label"], r["seed"]))


def unreadable_results(study_folder: Path) -> list[Path]:
    """The result files of a study that are not whole; the study trains them again."""
    return [path for path in _result_files(study_folder) if read_result(path) is None]


def _result_files(study_folder: Path) -> list[Path]:
    return sorted(study_folder.glob("results/*/*.json"))
