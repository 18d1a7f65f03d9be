"""Where a study's numbers came from, and how to get them again."""

import json
import shlex
from pathlib import Path
from typing import Any

from losslab.report.figure import Table
from losslab.run.folder import RunFolder
from losslab.study.results import Result


def provenance_table(folder: Path, results: list[Result]) -> Table:
    """Code, data, split, configurations, seeds, versions, devices and seconds."""
    manifest = RunFolder(folder / results[0]["run"]).manifest() if "run" in results[0] else {}
    commits = {f"{result.get('git_commit')}{', with changes' if result.get('git_dirty') else ''}" for result in results}
    hashes: dict[str, set[str]] = {}
    for result in results:
        for name, value in result.get("hashes", {}).items():
            hashes.setdefault(name, set()).add(value)
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    seconds = sum(result.get("seconds", 0.0) for result in results)
    rows = [
        ["commit", ", ".join(sorted(commits)).replace("None", "not in a repository")],
        ["images", ", ".join(sorted({result["data_name"] for result in results}))],
        ["data (SHA-256)", _several(hashes.get("train", set()))],
        ["split (SHA-256)", _several(hashes.get("split", set()))],
        ["configurations", f"{len({result['setting_hash'] for result in results})}, {len(results)} trainings"],
        ["training images", _counts(results)],
        ["seeds", ", ".join(map(str, sorted({result["seed"] for result in results})))],
        ["versions", versions or "not recorded"],
        ["device", ", ".join(sorted({result.get("device", "?") for result in results}))],
        ["precision", ", ".join(sorted({result.get("precision", "?") for result in results}))],
        ["seconds", f"{seconds:.0f} of training, {seconds / len(results):.1f} for each"],
        ["begun", min(result.get("started_at", "?") for result in results)],
    ]
    return Table(["what", "value"], rows)


def reproduce_commands(folder: Path) -> list[str]:
    """The commands that make the study and this page again."""
    try:
        command = json.loads((folder / "study.json").read_text()).get("command")
    except (OSError, ValueError):
        command = None
    study = shlex.quote(str(folder))
    best = shlex.quote(f"{folder}/best.yaml")
    return [*([command] if command else []), f"losslab report {study}", f"losslab fit --config {best}"]


def _several(values: set[str]) -> str:
    return min(values, default="not recorded") + (f" and {len(values) - 1} more" if len(values) > 1 else "")


def _counts(results: list[Result]) -> str:
    counts: dict[str, Any] = results[0].get("class_counts", {})
    if not counts:
        return "not recorded"
    low, high = min(counts.values()), max(counts.values())
    return (
        f"{sum(counts.values()):,}: {low:,} of each class"
        if low == high
        else (f"{sum(counts.values()):,}: {high:,} of the largest class, {low:,} of the smallest")
    )
