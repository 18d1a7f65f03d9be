"""Kept records: a study's results in one small file, experiments/results/NAME.jsonl, and back into runs/NAME.

The first line is the study's header; each further line is one result. A kept file is committed, so that the tables can
be written again, and a study can go on, where runs/ is not.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import softmax

from losslab.errors import UserError
from losslab.losses import focal_to_probability
from losslab.report import CONFIRM_FOLDER, TEST_FOLDER, focal_gamma, reliability
from losslab.run import CommandLine, RunFolder, config_hash, read_predictions, write_whole
from losslab.study import Result, read_results, result_path, write_result
from losslab.sweep import MAY_CHANGE

COMMAND = "python -m experiments.results"

SEARCH = "search"
"""The stage of a sweep's results; the stage of a confirmation's results is its folder's name, "confirm"."""

CONFIDENCE = "test/confidence"
ECE_PSI = "test/ece_psi"

FIELDS = (
    *("label", "order", "seed", "setting", "setting_hash"),
    *("device", "seconds", "started_at", "git_commit", "git_dirty"),
)
MACRO = ("val/precision/macro", "val/recall/macro", "val/f1/macro")
SEARCH_METRICS = (*MACRO, "val/acc", "val/ece", "train/acc", "train/acc_running")
CONFIRMATION_METRICS = (*MACRO, "val/acc", "train/acc", "train/acc_running")
"""Kept of a confirmation, besides all metrics that begin with "test/"."""

DIGITS = 6


class Kept(NamedTuple):
    """The content of a kept file.

    Args:
        header: name, data_name, identity, cpu_cores, declared and command of the sweep, and of each confirmation.
        results: the results, each with its `stage`.
    """

    header: dict[str, Any]
    results: list[Result]

    @property
    def stages(self) -> list[str]:
        """The confirmations' names, in their order."""
        return sorted(self.header["confirmations"], key=lambda name: (len(name), name))

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
        return Kept(header, [line | {"data_name": header["data_name"]} for line in lines])
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
            # A restored confirmation has no predictions to measure ensembles from.
            measured = former.header["confirmations"].get(stage, {}).get("ensembles", {})
            confirmation["ensembles"] = measured | confirmation["ensembles"]
        header["confirmations"] = former.header["confirmations"] | header["confirmations"]
        if merged == former.results and header["confirmations"] == former.header["confirmations"]:
            return former  # cpu_cores included: the number of cores of the machine that trained
    kept = Kept(header, merged)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header, *({key: value for key, value in line.items() if key != "data_name"} for line in merged)]
    write_whole(file, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return kept


def restore(file: Path, study: Path) -> int:
    """Writes kept results where a sweep and its confirmation look for them; existing result files stay as they are.

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
    for result in kept.results:
        stage = result["stage"]
        folders = [study] if stage == SEARCH else [study / stage, study / stage / TEST_FOLDER]
        content = {key: value for key, value in result.items() if key != "stage"}
        for folder in folders:
            written += write_result(result_path(folder, result["setting_hash"], result["seed"]), content)
    return written


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


def confidence_metrics(run: RunFolder) -> dict[str, float]:
    """Return the mean confidence on the test images and, for plain focal loss with gamma > 0, the ECE after psi.

    Args:
        run: a finished run.

    Returns:
        `CONFIDENCE`, the mean of the largest softmax probability, and `ECE_PSI`, both in [0, 1]; {} if the run's test
        predictions are gone.
    """
    predictions = _test_predictions(run)
    if predictions is None:
        return {}
    logits, labels = predictions
    measured = {CONFIDENCE: float(softmax(logits.astype(float), axis=1).max(axis=1).mean())}
    gamma = focal_gamma(run.config())
    if gamma:
        measured[ECE_PSI] = reliability(focal_to_probability(torch.from_numpy(logits), gamma).numpy(), labels).ece
    return measured


def ensemble_accuracy(runs: Sequence[RunFolder]) -> float | None:
    """Return the accuracy of the runs' mean probabilities on the test images, in [0, 1].

    None if the test predictions of any run are gone.
    """
    total, labels = None, None
    for run in runs:
        predictions = _test_predictions(run)
        if predictions is None:
            return None
        logits, labels = predictions
        probabilities = softmax(logits.astype(float), axis=1)
        total = probabilities if total is None else total + probabilities
    return None if total is None else float((total.argmax(axis=1) == labels).mean())


def parameter_count(config_file: Path) -> int:
    """Return the number of parameters of the network in a run's config.yaml."""
    model = CommandLine(["--config", str(config_file)], "results").build().model
    return sum(parameter.numel() for parameter in model.parameters())


def _test_predictions(run: RunFolder) -> tuple[np.ndarray, np.ndarray] | None:
    """Return logits (N, C) and labels (N,), or None if they are gone."""
    file = run.path / "test" / "predictions.npz"
    return read_predictions(file) if file.exists() else None


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
        "ensembles": _ensembles(confirm),
    }


def _ensembles(confirm: Path) -> dict[str, float]:
    """Return the accuracy of all runs of a setting together, by its hash, where no run's predictions are gone."""
    runs: dict[str, list[RunFolder]] = {}
    for result in read_results(confirm / TEST_FOLDER):
        runs.setdefault(result["setting_hash"], []).append(RunFolder(confirm / result.get("run", "gone")))
    measured = {setting: ensemble_accuracy(folders) for setting, folders in runs.items()}
    return {setting: round(accuracy, DIGITS) for setting, accuracy in measured.items() if accuracy is not None}


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "study.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no study: there is no study.json in it.") from None
    except ValueError as error:
        raise UserError(f"{folder}/study.json cannot be read: {error}.") from None


def _search_lines(study: Path) -> list[Result]:
    keys = (*SEARCH_METRICS, _read_record(study)["declared"]["monitor"])
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
