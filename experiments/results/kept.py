"""Kept records: a study's results in one small file, experiments/results/NAME.jsonl, and back into runs/NAME.

The first line is the study's header; each further line is one result. What repeats is in the header instead: under
"same" what all results have in common, under "settings" what all results of a setting have. A kept file is committed,
so that the tables can be written again, and a study can go on, where runs/ is not.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from losslab.errors import UserError
from losslab.report import CONFIRM_FOLDER, TEST_FOLDER
from losslab.run import RunFolder, config_hash, write_whole
from losslab.study import Result, StudyFile, read_results, result_path, write_result
from losslab.sweep import MAY_CHANGE

from .measures import CONFIDENCE, DIGITS, ECE_PSI, confidence_metrics, ensembles, image_spread, parameter_count

COMMAND = "python -m experiments.results"

SEARCH = "search"
"""The stage of a sweep's results; the stage of a confirmation's results is its folder's name, "confirm"."""

FIELDS = (
    *("label", "order", "seed", "setting", "setting_hash", "tuned"),
    *("device", "seconds", "started_at", "git_commit", "git_dirty"),
)
SAME = ("stage", "device", "git_commit", "git_dirty")
"""Fields that are written once, in the header, if all results have the same value."""
OF_SETTING = ("label", "order", "setting")
"""Fields that are written once for each setting's hash, in the header; a line with another value has its own."""

MACRO = ("val/precision/macro", "val/recall/macro", "val/f1/macro")
SEARCH_METRICS = (*MACRO, "val/acc", "val/ece", "train/acc", "train/acc_running")
TUNING_METRICS = MACRO
"""Kept of the many trainings among which each seed chooses. (The monitored metric is always kept.)"""

CONFIRMATION_METRICS = (*MACRO, "val/acc", "train/acc", "train/acc_running")
"""Kept of a confirmation, besides all metrics that begin with "test/"."""


class Kept(NamedTuple):
    """The content of a kept file.

    Args:
        header: name, data_name, validation, identity, cpu_cores, declared and command of the sweep, and of each
            confirmation.
        results: the results, each with its `stage`.
    """

    header: dict[str, Any]
    results: list[Result]

    @property
    def stages(self) -> list[str]:
        """The confirmations' names, in their order."""
        return sorted(self.header["confirmations"], key=lambda name: (len(name), name))

    @property
    def study(self) -> StudyFile:
        """The sweep's study file, as far as study.json declares it."""
        return StudyFile.from_declared(self.header["declared"])

    def is_of_sweep(self, stage: str) -> bool:
        """Whether a confirmation is of the sweep's own trainings, so that each of its results is a sweep's, tested."""
        return (
            self.study.tunes_each_seed and self.header["confirmations"][stage]["declared"]["seeds"] == self.study.seeds
        )

    @property
    def trainings(self) -> list[Result]:
        """One result for each training."""
        return [r for r in self.results if r["stage"] == SEARCH or not self.is_of_sweep(r["stage"])]

    def stage_results(self, stage: str) -> list[Result]:
        """Return the results of a stage, ordered by setting and seed."""
        return [result for result in self.results if result["stage"] == stage]


def kept_file(folder: Path, name: str) -> Path:
    """FOLDER/NAME.jsonl"""
    return folder / f"{name}.jsonl"


def read_kept(file: Path) -> Kept | None:
    """Return the content of a kept file, or None if there is no file.

    Raises:
        UserError: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        header, *lines = map(json.loads, file.read_text().splitlines())
        shared, settings = header.pop("same", {}) | {"data_name": header["data_name"]}, header.pop("settings", {})
        return Kept(header, [{**shared, **settings.get(line["setting_hash"], {}), **line} for line in lines])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); `git checkout` brings the last whole one back.") from None


def keep(study: Path, folder: Path) -> Kept:
    """Writes the results of runs/NAME into FOLDER/NAME.jsonl, beside those that the file holds already.

    May be called at any time. A result that the study no longer has stays in the file.

    Args:
        study: runs/NAME.
        folder: the folder of the kept files.

    Raises:
        UserError: there is no study, it has no result, or the file holds another study of this name.
    """
    file = kept_file(folder, study.name)
    former = read_kept(file)
    results = _search_lines(study)
    if not results:
        raise UserError(f"{study} has no result yet; its `losslab sweep` makes them.")
    header = _header(study, {result["data_name"] for result in results})
    if former is not None and former.header["identity"] != header["identity"]:
        raise UserError(f"{file} holds another study (arms, seeds, experiment or data differ). Move it away first.")
    parameters = {r["setting_hash"]: r["parameters"] for r in former.results if "parameters" in r} if former else {}
    for stage in header["confirmations"]:
        results += _confirmation_lines(study / stage, stage, parameters)
    merged = _merge(former.results if former else [], results)
    if former is not None:
        for stage, confirmation in header["confirmations"].items():
            # A restored confirmation has no predictions to measure these from.
            for measure in ("ensembles", "image_spread"):
                known = former.header["confirmations"].get(stage, {}).get(measure, {})
                confirmation[measure] = known | confirmation[measure]
        header["confirmations"] = former.header["confirmations"] | header["confirmations"]
        if merged == former.results and header["confirmations"] == former.header["confirmations"]:
            return former  # cpu_cores included: the number of cores of the machine that trained
    kept = Kept(header, merged)
    folder.mkdir(parents=True, exist_ok=True)
    same = {key: merged[0][key] for key in SAME if all(line.get(key) == merged[0].get(key, "") for line in merged)}
    settings: dict[str, Any] = {}
    for line in merged:
        settings.setdefault(line["setting_hash"], {key: line[key] for key in OF_SETTING})
    known = {"data_name": header["data_name"], **same}
    lines = [header | {"same": same, "settings": settings}]
    lines += [_without(line, known | settings[line["setting_hash"]]) for line in merged]
    write_whole(file, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return kept


def _without(line: Result, known: dict[str, Any]) -> Result:
    return {key: value for key, value in line.items() if key not in known or known[key] != value}


def restore(file: Path, study: Path) -> int:
    """Writes kept results where a sweep and its confirmation look for them; existing result files stay as they are.

    Where each seed tunes, the confirmation evaluates the sweep's own runs, which are not kept: of a seed that is not
    tested yet, the best result is left out, so that the sweep trains it again.

    Args:
        file: the kept file.
        study: runs/NAME.

    Returns:
        The number of result files written.

    Raises:
        UserError: there is no kept file.
    """
    kept = read_kept(file)
    if kept is None:
        raise UserError(f"there is no {file}; `{COMMAND} keep {study}` writes it.")
    written = 0
    needed = _needed_runs(kept)
    for result in kept.results:
        stage = result["stage"]
        if stage == SEARCH:
            folders = [] if training_key(result) in needed else [study]
        elif StudyFile.from_declared(kept.header["confirmations"][stage]["declared"]).tunes_each_seed:
            folders = [study / stage / TEST_FOLDER]  # its result is one of several trainings, which are not kept
        else:
            folders = [study / stage, study / stage / TEST_FOLDER]
        content = {key: value for key, value in result.items() if key != "stage"}
        for folder in folders:
            written += write_result(result_path(folder, result["setting_hash"], result["seed"]), content)
    return written


def _needed_runs(kept: Kept) -> set[tuple[str, str, int]]:
    """Return the keys of the trainings whose runs a confirmation of the sweep's own trainings has still to evaluate."""
    if not kept.study.tunes_each_seed or not all(map(kept.is_of_sweep, kept.stages)):
        return set()  # trainings of their own, with fresh seeds, confirm
    tested = {training_key(result)[1:] for result in kept.results if result["stage"] != SEARCH}
    trained = [result | {"key": training_key(result)} for result in kept.stage_results(SEARCH)]
    chosen = kept.study.replicates(trained)
    return {result["key"] for result in chosen if training_key(result)[1:] not in tested}


def describe_difference(former: Kept | None, kept: Kept) -> str:
    """Return in words how many kept trainings were run again, and the metric that then differs most."""
    before = {training_key(line): line for line in former.results} if former else {}
    again = [
        (before[training_key(line)]["metrics"], line["metrics"])
        for line in kept.results
        if training_key(line) in before and _was_run_again(before[training_key(line)], line)
    ]
    gaps: dict[str, float] = {}
    for old, new in again:
        for metric in old.keys() & new.keys():
            gaps[metric] = max(gaps.get(metric, 0.0), abs(old[metric] - new[metric]))
    if not gaps:
        return "none of them was kept before and run again"
    furthest = max(gaps, key=lambda metric: (gaps[metric], metric))
    same = "no metric differs" if gaps[furthest] == 0 else f"{furthest} differs most, by up to {gaps[furthest]:.2g}"
    return f"{len(again)} of them were kept before and run again: {same}"


def training_key(line: Result) -> tuple[str, str, int]:
    """Return stage, setting and seed, which identify the training of a kept result."""
    return line["stage"], line["setting_hash"], line["seed"]


def _header(study: Path, data_names: set[str]) -> dict[str, Any]:
    record = _read_record(study)
    identity = {
        "study": {key: value for key, value in record["study"].items() if key not in MAY_CHANGE},
        "experiment": config_hash(record["experiment"]),
        "data": record["data"],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    confirmed = [folder.parent for folder in study.glob(f"{CONFIRM_FOLDER}*/{TEST_FOLDER}")]
    # A restored confirmation has no study.json yet, and nothing that the kept file lacks.
    tested = sorted(folder.name for folder in confirmed if (folder / "study.json").exists())
    return {
        "name": study.name,
        "data_name": " and ".join(sorted(data_names)),
        "validation": record["experiment"]["data"].get("init_args", {}).get("validation", "balanced"),
        "identity": digest[:12],
        "cpu_cores": os.cpu_count(),
        "declared": record["declared"],
        "command": record["command"],
        "confirmations": {stage: _confirmation_header(study / stage) for stage in tested},
    }


def _confirmation_header(confirm: Path) -> dict[str, Any]:
    record = _read_record(confirm)
    return {
        "declared": record["declared"],
        "command": record["command"],
        "settings": len(record["study"]["arms"]),
        "ensembles": ensembles(confirm),
        "image_spread": image_spread(confirm),
    }


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "study.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no study: there is no study.json in it.") from None
    except ValueError as error:
        raise UserError(f"{folder}/study.json cannot be read: {error}.") from None


def _search_lines(study: Path) -> list[Result]:
    declared = StudyFile.from_declared(_read_record(study)["declared"])
    keys = (*(TUNING_METRICS if declared.tunes_each_seed else SEARCH_METRICS), declared.monitor)
    return [
        _line(SEARCH, result, {key: value for key, value in result["metrics"].items() if key in keys})
        for result in read_results(study)
    ]


def _confirmation_lines(confirm: Path, stage: str, parameters: dict[str, int]) -> list[Result]:
    """Return the lines of a confirmation's tested runs.

    Args:
        confirm: the confirmation's folder.
        stage: its name.
        parameters: the number of parameters by setting's hash; counts that are missing are added.
    """
    lines = []
    for result in read_results(confirm / TEST_FOLDER):
        run = RunFolder(confirm / result["run"]) if "run" in result else None
        metrics = {k: v for k, v in result["metrics"].items() if k in CONFIRMATION_METRICS or k.startswith("test/")}
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


def _merge(former: list[Result], new: list[Result]) -> list[Result]:
    """Return the lines of both lists, one for each training: the new one, if there is one.

    A new line whose metrics are the former's takes over the measures whose predictions may be gone by now.
    """
    merged = {training_key(line): line for line in former}
    for line in new:
        known = merged.get(training_key(line))
        if known is not None and _result_metrics(known) == _result_metrics(line):
            line["metrics"] |= {key: known["metrics"][key] for key in (CONFIDENCE, ECE_PSI) if key in known["metrics"]}
        merged[training_key(line)] = line
    return sorted(merged.values(), key=lambda r: (r["stage"] != SEARCH, r["stage"], r["order"], r["label"], r["seed"]))


def _result_metrics(line: Result) -> dict[str, float]:
    """Return the metrics that come from the result itself, not from predictions."""
    return {key: value for key, value in line["metrics"].items() if key not in (CONFIDENCE, ECE_PSI)}


def _was_run_again(former: Result, line: Result) -> bool:
    # Two short trainings can take the same milliseconds; lines that former versions kept have no other mark.
    mark = "started_at" if "started_at" in former and "started_at" in line else "seconds"
    return former[mark] != line[mark]
