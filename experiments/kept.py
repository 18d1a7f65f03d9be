"""Kept records: a study's results in one small file, experiments/results/NAME.jsonl, and back into runs/NAME.

The first line says what the study is; each further line is one result. A kept file is committed, so that the tables can
be written again, and a study can go on, where runs/ is not.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from run_measures import CONFIDENCE, ECE_PSI, confidence_metrics, ensemble_accuracy, parameter_count

from losslab.errors import UserError
from losslab.report import CONFIRM_FOLDER, TEST_FOLDER
from losslab.run import RunFolder, config_hash, write_whole
from losslab.study import Result, read_results, result_path, write_result
from losslab.sweep.command import MAY_CHANGE

SEARCH = "search"
"""The stage of the results that a sweep made; those of a confirmation have its folder's name, "confirm"."""

FIELDS = (
    *("label", "order", "seed", "setting", "setting_hash"),
    *("device", "seconds", "started_at", "git_commit", "git_dirty"),
)
MACRO = ("val/precision/macro", "val/recall/macro", "val/f1/macro")
OF_THE_SEARCH = (*MACRO, "val/acc", "val/ece", "train/acc", "train/acc_running")
OF_A_CONFIRMATION = (*MACRO, "val/acc", "train/acc", "train/acc_running")
"""Beside all that begins with "test/"."""

DIGITS = 6


class Kept(NamedTuple):
    """A kept file.

    Args:
        header: name, data_name, identity, cpu_cores, declared and command of the sweep; of each confirmation too.
        results: each with its `stage`.
    """

    header: dict[str, Any]
    results: list[Result]

    @property
    def stages(self) -> list[str]:
        """The confirmations' names, in their order."""
        return sorted(self.header["confirmations"], key=lambda name: (len(name), name))

    def of_stage(self, stage: str) -> list[Result]:
        """Its results, ordered by setting and seed."""
        return [result for result in self.results if result["stage"] == stage]


def kept_file(folder: Path, name: str) -> Path:
    """FOLDER/NAME.jsonl"""
    return folder / f"{name}.jsonl"


def read_kept(file: Path) -> Kept | None:
    """What a kept file holds; None where there is none.

    Raises:
        UserError: it is not whole.
    """
    if not file.exists():
        return None
    try:
        header, *lines = map(json.loads, file.read_text().splitlines())
        return Kept(header, [line | {"data_name": header["data_name"]} for line in lines])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); `git checkout` brings the last whole one back.") from None


def keep(study: Path, folder: Path) -> Kept:
    """Write what runs/NAME holds into FOLDER/NAME.jsonl, beside what that holds already.

    May be called at any time. A result that the study does not have (any more) stays in the file.

    Args:
        study: runs/NAME.
        folder: where kept files are.

    Raises:
        UserError: there is no study, it has no result, or the file holds another study of this name.
    """
    file = kept_file(folder, study.name)
    former = read_kept(file)
    results = _search(study)
    if not results:
        raise UserError(f"{study} has no result yet; its `losslab sweep` makes them.")
    header = _header(study, {result["data_name"] for result in results})
    if former is not None and former.header["identity"] != header["identity"]:
        raise UserError(f"{file} holds another study (arms, seeds, experiment or data differ). Move it away first.")
    parameters = {r["setting_hash"]: r["parameters"] for r in former.results if "parameters" in r} if former else {}
    for stage in header["confirmations"]:
        results += _confirmation(study / stage, stage, parameters)
    merged = _merged(former.results if former else [], results)
    if former is not None:
        for stage, told in header["confirmations"].items():  # restored, its predictions are gone
            told["ensembles"] = former.header["confirmations"].get(stage, {}).get("ensembles", {}) | told["ensembles"]
        header["confirmations"] = former.header["confirmations"] | header["confirmations"]
        if merged == former.results and header["confirmations"] == former.header["confirmations"]:
            return former  # not even the number of cores, which was that of the training machine
    kept = Kept(header, merged)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header, *({key: value for key, value in line.items() if key != "data_name"} for line in merged)]
    write_whole(file, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return kept


def restore(file: Path, study: Path) -> int:
    """Write kept results back where a sweep and its confirmation find them; what is there already stays.

    Args:
        file: the kept file.
        study: runs/NAME.

    Returns:
        How many result files were written.
    """
    kept = read_kept(file)
    if kept is None:
        raise UserError(f"there is no {file}; `results.py keep {study}` writes it.")
    written = 0
    for result in kept.results:
        stage = result["stage"]
        within = study if stage == SEARCH else study / stage
        content = {key: value for key, value in result.items() if key != "stage"}
        places = [within] if stage == SEARCH else [within, within / TEST_FOLDER]
        written += sum(
            write_result(result_path(place, result["setting_hash"], result["seed"]), content) for place in places
        )
    return written


def _header(study: Path, data_names: set[str]) -> dict[str, Any]:
    record = _record(study)
    what_it_is = {
        "study": {key: value for key, value in record["study"].items() if key not in MAY_CHANGE},
        "experiment": config_hash(record["experiment"]),
        "data": record["data"],
    }
    digest = hashlib.sha256(json.dumps(what_it_is, sort_keys=True).encode()).hexdigest()
    confirmed = [folder.parent for folder in study.glob(f"{CONFIRM_FOLDER}*/{TEST_FOLDER}")]
    # A restored one has no record yet, and nothing that the file did not have.
    tested = sorted(folder.name for folder in confirmed if (folder / "study.json").exists())
    return {
        "name": study.name,
        "data_name": " and ".join(sorted(data_names)),
        "identity": digest[:12],
        "cpu_cores": os.cpu_count(),
        "declared": record["declared"],
        "command": record["command"],
        "confirmations": {stage: _confirmation_header(study / stage) for stage in tested},
    }


def _confirmation_header(confirm: Path) -> dict[str, Any]:
    record = _record(confirm)
    return {
        "declared": record["declared"],
        "command": record["command"],
        "settings": len(record["study"]["arms"]),
        "ensembles": _ensembles(confirm),
    }


def _ensembles(confirm: Path) -> dict[str, float]:
    """By a setting's hash, the accuracy of all its runs together; of settings whose predictions are all there."""
    runs: dict[str, list[RunFolder]] = {}
    for result in read_results(confirm / TEST_FOLDER):
        runs.setdefault(result["setting_hash"], []).append(RunFolder(confirm / result.get("run", "gone")))
    measured = {setting: ensemble_accuracy(folders) for setting, folders in runs.items()}
    return {setting: round(accuracy, DIGITS) for setting, accuracy in measured.items() if accuracy is not None}


def _record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "study.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no study: there is no study.json in it.") from None
    except ValueError as error:
        raise UserError(f"{folder}/study.json cannot be read: {error}.") from None


def _search(study: Path) -> list[Result]:
    keys = (*OF_THE_SEARCH, _record(study)["declared"]["monitor"])
    return [
        _line(SEARCH, result, {key: value for key, value in result["metrics"].items() if key in keys})
        for result in read_results(study)
    ]


def _confirmation(confirm: Path, stage: str, parameters: dict[str, int]) -> list[Result]:
    """The lines of its tested runs; `parameters`, by setting, is filled with what has to be counted."""
    lines = []
    for result in read_results(confirm / TEST_FOLDER):
        run = RunFolder(confirm / result["run"]) if "run" in result else None
        metrics = {k: v for k, v in result["metrics"].items() if k in OF_A_CONFIRMATION or k.startswith("test/")}
        if run is not None:
            metrics |= confidence_metrics(run)
        line = _line(stage, result, metrics)
        line |= {"class_counts": result["class_counts"], "earlier_reads": result.get("earlier_reads", 0)}
        setting = result["setting_hash"]
        if "parameters" in result:
            parameters[setting] = result["parameters"]
        elif setting not in parameters and run is not None and run.config_file.exists():
            parameters[setting] = parameter_count(run.config_file)
        if setting in parameters:
            line["parameters"] = parameters[setting]
        lines.append(line)
    return lines


def _line(stage: str, result: Result, metrics: dict[str, float]) -> Result:
    return {
        "stage": stage,
        **{key: result[key] for key in FIELDS if key in result},
        "metrics": {key: round(value, DIGITS) for key, value in metrics.items()},
        "data_name": result["data_name"],
    }


def _merged(former: list[Result], new: list[Result]) -> list[Result]:
    """All of both; of two that are the same training, the new one, with what only the predictions could tell."""
    merged = {key_of(line): line for line in former}
    for line in new:
        known = merged.get(key_of(line))
        if known is not None and _measured(known) == _measured(line):
            line["metrics"] |= {key: known["metrics"][key] for key in (CONFIDENCE, ECE_PSI) if key in known["metrics"]}
        merged[key_of(line)] = line
    return sorted(merged.values(), key=lambda r: (r["stage"] != SEARCH, r["stage"], r["order"], r["label"], r["seed"]))


def key_of(line: Result) -> tuple[str, str, int]:
    """What makes a kept result that of one training: stage, setting and seed."""
    return line["stage"], line["setting_hash"], line["seed"]


def _measured(line: Result) -> dict[str, float]:
    return {key: value for key, value in line["metrics"].items() if key not in (CONFIDENCE, ECE_PSI)}
