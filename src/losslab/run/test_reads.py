"""runs/test_reads.jsonl: every look at the test images is counted, before it happens."""

import json
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.run.config import Config, config_hash
from losslab.run.provenance import git_state, utc_now
from losslab.run.run_folder import RUNS


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
