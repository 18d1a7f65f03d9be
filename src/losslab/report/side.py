"""One of two things that are compared: a study or a run, with the same parts."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.report.study_summary import summarise_folder
from losslab.run.config import SEED, Config
from losslab.run.folder import RunFolder, find_run
from losslab.study.results import SettingResults, group_by_setting, with_group_metrics


@dataclass
class Side:
    """What is compared.

    Args:
        name: the study's, or the last two parts of the run's path.
        folder: runs/<study>, or the run's folder.
        settings: the study's, or the run as the only one.
        endpoints: the metrics to compare.
        config: the experiment's, or the run's.
        records: what is known of where it came from.
        is_study: whether it is one.
    """

    name: str
    folder: Path
    settings: list[SettingResults]
    endpoints: list[str]
    config: Config
    records: list[dict[str, Any]]
    is_study: bool

    def hashes(self, name: str) -> set[str]:
        """The hashes of data ("train") or split ("split") that its trainings had."""
        return {record.get("hashes", {}).get(name, "not recorded") for record in self.records}


def read_side(path: Path) -> Side:
    """A study, a run, or the newest finished run of a folder.

    Raises:
        UserError: it is none of them, or has no result yet.
    """
    if (path / "study.json").is_file():
        summary, results = summarise_folder(path)
        config = json.loads((path / "study.json").read_text())["experiment"]
        endpoints = summary.declared.endpoints(results)
        return Side(path.name, path, group_by_setting(results), endpoints, config, results, True)
    return _run(find_run(path, finished=True))


def _run(run: RunFolder) -> Side:
    manifest = run.manifest()
    try:
        with run.metrics_file.open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
    except (OSError, IndexError):
        raise UserError(f"{run.path} has no epoch in metrics.csv: there is nothing to compare.") from None
    measured = {key: float(value) for key, value in last.items() if key.startswith(("val/", "train/")) and value}
    metrics = with_group_metrics(measured, manifest.get("class_counts", {}))
    classes = [key.removeprefix("val/recall/") for key in measured if key.startswith("val/recall/")]
    config = run.config()
    name = "/".join(run.path.parts[-2:])
    setting = SettingResults(
        label=name,
        arm="",
        varied={},
        setting_hash="",
        seeds=[config[SEED]],
        values={key: [value] for key, value in metrics.items()},
        classes=[name for name in classes if name != "macro"],
        runs=["."],
    )
    return Side(name, run.path, [setting], [k for k in metrics if k.endswith("/macro")], config, [manifest], False)
