"""`losslab runs`: a table of the runs with their headline numbers, and the studies."""

from typing import Any

from losslab.errors import UserError
from losslab.run.config import class_name
from losslab.run.folder import RUNS, RunFolder, read_record
from losslab.run.terminal import OptionParser, console, dense_table

COLUMNS = ("run", "status", "data", "model", "loss", "epochs", "val acc", "val F1", "test acc", "seconds")


def runs_command(tokens: list[str]) -> None:
    """Print a line for each run and for each study under runs/."""
    OptionParser(prog="losslab runs", description="List runs and studies under runs/.").parse_args(tokens)
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
            out.print(f"  unreadable, left out: {path}", highlight=False)


def _row(folder: RunFolder) -> list[str]:
    """Return the run's cells; damaged files are named there, and the other runs are listed all the same."""
    try:
        cells = _cells(folder)
    except UserError:
        cells = [str(folder.path), "unreadable config"]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        cells = [str(folder.path), "unreadable records"]
    return cells + [""] * (len(COLUMNS) - len(cells))


def _cells(folder: RunFolder) -> list[str]:
    config, manifest, last = folder.config(), folder.manifest(), (folder.epochs() or [{}])[-1]
    tested = (read_record(folder.path / "test" / "metrics.json") or {}).get("metrics") or {}
    limited = ", ".join(f"{name}={value}" for name, value in manifest.get("conditions", {}).items())
    return [
        str(folder.path),
        folder.status() + (f", {limited}" if limited else ""),
        str(manifest.get("data_name", "")),
        class_name(config.get("model")),
        class_name(((config.get("model") or {}).get("init_args") or {}).get("loss")),
        str(int(last["epoch"]) + 1) if last else "0",
        _number(last.get("val/acc")),
        _number(last.get("val/f1/macro")),
        _number(tested.get("test/acc")),
        f"{manifest['seconds']:.0f}" if "seconds" in manifest else "",
    ]


def _number(value: Any) -> str:
    return f"{float(value):.4f}" if value not in (None, "") else ""
