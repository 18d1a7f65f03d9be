"""`losslab runs`: what has been run, with its headline numbers."""

import argparse
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.run.config import Config, class_name
from losslab.run.folder import RUNS, RunFolder, read_record
from losslab.run.terminal import console, dense_table

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
        files = sorted(study.glob("results/*/*.json"))
        unreadable = [path for path in files if not {"seed", "metrics"} <= (read_record(path) or {}).keys()]
        out.print(f"study {study}: {len(files) - len(unreadable)} results", highlight=False)
        for path in unreadable:
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
    last = (folder.epochs() or [{}])[-1]
    return [
        str(folder.path),
        str(manifest.get("status", "unreadable manifest")),
        str(manifest.get("data_name", "")),
        class_name(config.get("model")),
        class_name(((config.get("model") or {}).get("init_args") or {}).get("loss")),
        str(int(last["epoch"]) + 1) if last else "0",
        _number(last.get("val/acc")),
        _number(last.get("val/f1/macro")),
        _number(_test_accuracy(folder.path)),
        f"{manifest['seconds']:.0f}" if "seconds" in manifest else "",
    ]


def _number(value: Any) -> str:
    return f"{float(value):.4f}" if value not in (None, "") else ""


def _test_accuracy(run: Path) -> float | None:
    try:
        return (read_record(run / "test" / "metrics.json") or {})["metrics"]["test/acc"]
    except (KeyError, TypeError):
        return None
