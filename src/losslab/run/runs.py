"""`losslab runs`: what has been run, with its headline numbers."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.run.config import Config
from losslab.run.folder import RUNS, RunFolder
from losslab.run.terminal import console, dense_table
from losslab.study.results import read_results, unreadable_results

COLUMNS = ("run", "status", "data", "model", "loss", "epochs", "val acc", "val F1", "test acc", "seconds")


def runs_command(tokens: list[str]) -> None:
    """Print a line for each run and for each study under runs/."""
    parser = argparse.ArgumentParser(prog="losslab runs", description="List runs and studies under runs/.")
    parser.parse_args(tokens)
    folders = [RunFolder(file.parent) for file in sorted(RUNS.glob("*/*/config.yaml"))]
    studies = [file.parent for file in sorted(RUNS.glob("*/study.json"))]
    if not folders and not studies:
        print(f"Nothing in {RUNS}/ yet. Begin with: losslab fit --config experiments/cnn.yaml")
        return
    out = console()
    if folders:
        table = dense_table(*COLUMNS)
        for folder in folders:
            table.add_row(*_row(folder))
        out.print(table)
    for study in studies:
        out.print(f"study {study}: {len(read_results(study))} results", highlight=False)
        for path in unreadable_results(study):
            out.print(f"  unreadable, left out: {path}", highlight=False, soft_wrap=True)


def _row(folder: RunFolder) -> list[str]:
    try:
        config = folder.config()
    except UserError:  # not whole: the others are listed all the same
        return [str(folder.path), "unreadable config", *[""] * (len(COLUMNS) - 2)]
    manifest = folder.manifest()
    try:
        return _cells(folder, config, manifest)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # what is in the files is no record
        return [str(folder.path), "unreadable records", *[""] * (len(COLUMNS) - 2)]


def _cells(folder: RunFolder, config: Config, manifest: dict[str, Any]) -> list[str]:
    last = _last_row(folder.metrics_file)
    return [
        str(folder.path),
        str(manifest.get("status", "unreadable manifest")),
        str(manifest.get("data_name", "")),
        _short(config.get("model")),
        _short(((config.get("model") or {}).get("init_args") or {}).get("loss")),
        str(int(last["epoch"]) + 1) if last else "0",
        _number(last.get("val/acc")),
        _number(last.get("val/f1/macro")),
        _number(_test_accuracy(folder.path)),
        f"{manifest['seconds']:.0f}" if "seconds" in manifest else "",
    ]


def _short(part: Any) -> str:
    return str(part["class_path"]).rsplit(".", 1)[-1] if isinstance(part, dict) and "class_path" in part else ""


def _number(value: Any) -> str:
    return f"{float(value):.4f}" if value not in (None, "") else ""


def _last_row(metrics_file: Path) -> dict[str, str]:
    if not metrics_file.is_file():
        return {}
    with metrics_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows[-1] if rows else {}


def _test_accuracy(run: Path) -> float | None:
    try:
        return json.loads((run / "test" / "metrics.json").read_text())["metrics"]["test/acc"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
