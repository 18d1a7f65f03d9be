"""Two studies or two runs side by side."""

import dataclasses
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab.errors import UserError
from losslab.metrics import is_share
from losslab.report.figure import Choice, Figure, Table, Trace, axes, categories, escape_tags, marker
from losslab.report.predictions import confusion, shown_predictions
from losslab.report.records import limits_text, loss_identity, losslab_origin, read_config
from losslab.report.summary import column_title, format_difference, is_loss, metric_title, summarise_folder
from losslab.report.tables import verdict_table
from losslab.report.verdicts import Family, compare_pairs
from losslab.run import SEED, Config, RunFolder, differences, find_run
from losslab.study import SettingResults, format_mean, with_group_metrics

MARKED_FROM = 0.005
"""Differences of means of shares of this size and more are marked."""


@dataclass
class ComparedItem:
    """One side of a comparison: a study or a run.

    Args:
        name: the study's name, or the last two parts of the run's path.
        folder: runs/<study>, or the run's folder.
        settings: the study's settings, or the run as the only one.
        endpoints: the metrics to compare.
        config: the configuration of the study's experiment, or of the run.
        records: the study's results, or the run's manifest: commit, hashes, device and so on.
        is_study: False for a run.
    """

    name: str
    folder: Path
    settings: list[SettingResults]
    endpoints: list[str]
    config: Config
    records: list[dict[str, Any]]
    is_study: bool

    def hashes(self, name: str) -> set[tuple[int, str]]:
        """Return seed and hash of the training images ("train") or of the split ("split")."""
        return {(record.get("seed", 0), record.get("hashes", {}).get(name, "not recorded")) for record in self.records}

    @property
    def seeds(self) -> set[int]:
        """The seeds of the settings."""
        return {seed for setting in self.settings for seed in setting.seeds}


def read_compared_item(path: Path) -> ComparedItem:
    """Read a study, a run, or the newest finished run of a folder.

    Raises:
        UserError: the path is none of these, or has no result yet.
    """
    if (path / "study.json").is_file():
        summary, results = summarise_folder(path)
        config = json.loads((path / "study.json").read_text())["experiment"]
        endpoints = summary.study.endpoints(results)
        return ComparedItem(path.name, path, summary.candidates, endpoints, config, results, True)
    return _read_run(find_run(path, finished=True))


def _read_run(run: RunFolder) -> ComparedItem:
    manifest, config, epochs = run.manifest(), run.config(), run.epochs()
    if not epochs:
        raise UserError(f"{run.path} has no epoch in metrics.csv: there is nothing to compare.")
    measured = {key: float(value) for key, value in epochs[-1].items() if key.startswith(("val/", "train/")) and value}
    metrics = with_group_metrics(measured, manifest.get("class_counts", {}))
    classes = [key.removeprefix("val/recall/") for key in measured if key.startswith("val/recall/")]
    name = "/".join(run.path.parts[-2:])
    setting = SettingResults(
        label=name, arm="", varied={}, setting_hash="", seeds=[config[SEED]], runs=["."],
        values={key: [value] for key, value in metrics.items()}, classes=[c for c in classes if c != "macro"],
    )  # fmt: skip
    endpoints = [key for key in metrics if key.endswith("/macro")]
    return ComparedItem(name, run.path, [setting], endpoints, config, [manifest], False)


Pair = tuple[SettingResults, SettingResults]


def comparison_content(a: ComparedItem, b: ComparedItem) -> dict[str, Any]:
    """Compare `b` with `a`, and return the fields of the comparison's template.

    Raises:
        UserError: one is a study and the other a run, they have no setting in common, or their classes differ.
    """
    if a.is_study != b.is_study:
        kinds = ("a study", "a run") if a.is_study else ("a run", "a study")
        raise UserError(f"{a.name} is {kinds[0]} and {b.name} {kinds[1]}: compare two studies or two runs.")
    if a.name == b.name:  # in different folders
        a.name, b.name = str(a.folder), str(b.folder)
    pairs = _pairs(a, b)
    if not pairs:
        raise UserError(f"{a.name} and {b.name} have no setting in common.")
    if pairs[0][0].classes != pairs[0][1].classes:
        raise UserError(f"{a.name} and {b.name} have different classes: nothing can be set side by side.")
    same_images = _same_images(a, b)
    same_loss = all(_loss(a, in_a) == _loss(b, in_b) for in_a, in_b in pairs)
    family = _family(a, pairs, same_loss) if same_images else None
    changed = [line.partition(": ") for line in differences(a.config, b.config)]
    confused = _confusion(a, b, pairs[0]) if same_images else None
    notes = [
        *([] if same_images else ["Images or split differ: the means stand side by side, and nothing is compared."]),
        *([] if same_loss else ["The two have different losses, which are on different scales: the loss is left out."]),
    ]
    return {
        "names": (a.name, b.name),
        "answer": _answer(a, b, len(pairs), family, len(changed)),
        "configuration": Table(["setting of", a.name, b.name], [[path, *v.split(" -> ", 1)] for path, _, v in changed]),
        "sources": _sources(a, b),
        "means": _means(a, b, pairs, same_loss),
        "note": " ".join(notes),
        "verdicts": verdict_table(family),
        "figures": [_by_class(a, b, pairs), *([confused] if confused else [])],
        "command": f"losslab report --compare {shlex.quote(str(a.folder))} {shlex.quote(str(b.folder))}",
    }


def _same_images(a: ComparedItem, b: ComparedItem) -> bool:
    """Return whether both have the same images and splits at the seeds that they share; without such, at all seeds."""
    common = a.seeds & b.seeds

    def known(item: ComparedItem, part: str) -> set[tuple[int, str]]:
        return {(seed if common else 0, h) for seed, h in item.hashes(part) if not common or seed in common}

    return all(known(a, part) == known(b, part) for part in ("train", "split"))


def _pairs(a: ComparedItem, b: ComparedItem) -> list[Pair]:
    """Return the two runs, or the settings of both studies that have the same arm and values."""
    if not a.is_study:
        return [(a.settings[0], b.settings[0])]
    in_b = {(setting.arm, str(setting.varied)): setting for setting in b.settings}
    return [(s, in_b[key]) for s in a.settings if (key := (s.arm, str(s.varied))) in in_b]


def _loss(item: ComparedItem, setting: SettingResults) -> str:
    return loss_identity(read_config(item.folder, setting) or item.config)


def _family(a: ComparedItem, pairs: list[Pair], same_loss: bool) -> Family | None:
    """Return the verdicts on b against a, over the seeds that all settings share; None without such a seed."""
    settings = [setting for pair in pairs for setting in pair]
    seeds = sorted(set.intersection(*(set(setting.seeds) for setting in settings)))
    endpoints = [key for key in a.endpoints if same_loss or not is_loss(key)]
    keys = [key for key in endpoints if all(key in setting.values for setting in settings)]
    if not seeds or not keys:
        return None
    return compare_pairs([(_at(in_b, seeds), _at(in_a, seeds)) for in_a, in_b in pairs], a.name, keys)


def _at(setting: SettingResults, seeds: list[int]) -> SettingResults:
    """Return a setting's results at these seeds only."""
    kept = [setting.seeds.index(seed) for seed in seeds]
    values = {key: [numbers[i] for i in kept] for key, numbers in setting.values.items()}
    return dataclasses.replace(setting, seeds=seeds, values=values, runs=[])


def _answer(a: ComparedItem, b: ComparedItem, pairs: int, family: Family | None, changed: int) -> list[str]:
    compared = f"{pairs} settings in common" if a.is_study else "two runs"
    differ = f"{changed or 'no'} value{'s differ' if changed != 1 else ' differs'}"
    first = f"{b.name} against {a.name}: {compared}; in the configuration {differ}."
    first += "".join(f" {item.name} is {limits}." for item in (a, b) if (limits := limits_text(item.records)))
    if family is None:
        return [first, "Nothing is compared: the two do not share images, split, seeds and metrics."]
    shown = "; ".join(f"{metric_title(v.metric)} of {v.setting} is {v.word}" for v in family.shown)
    return [first, f"Shown: {shown}." if shown else "No difference is shown.", family.method]


def _sources(a: ComparedItem, b: ComparedItem) -> Table:
    in_b = _source(b)
    rows = [[what, found, in_b[what]] for what, found in _source(a).items()]
    return Table(["what", a.name, b.name], rows, [i for i, (_, one, other) in enumerate(rows) if one != other])


def _source(item: ComparedItem) -> dict[str, str]:
    """Return what the numbers of one side come from, by the row's heading."""
    records = item.records
    found: dict[str, Iterable[str]] = {
        key: {str(record.get(key, "not recorded")) for record in records}
        for key in ("data_name", "git_commit", "device", "precision")
    }
    found |= {"losslab": set(map(losslab_origin, records)), "conditions": [limits_text(records) or "none"]}
    found |= {f"{part} (SHA-256)": {digest[:12] for _, digest in item.hashes(part)} for part in ("train", "split")}
    seeds = ", ".join(map(str, sorted(item.seeds)))
    return {what: ", ".join(sorted(values)) for what, values in found.items()} | {"seeds": seeds}


def _means(a: ComparedItem, b: ComparedItem, pairs: list[Pair], same_loss: bool) -> Table:
    rows: list[list[str]] = []
    marked = []
    for in_a, in_b in pairs:
        for key in in_a.values:
            if key in in_b.values and key.startswith("val/") and (same_loss or not is_loss(key)):
                means = in_a.mean_sd(key), in_b.mean_sd(key)
                difference = means[1][0] - means[0][0]
                if abs(difference) >= MARKED_FROM and is_share(key):
                    marked.append(len(rows))
                texts = [format_mean(key, *mean) for mean in means]
                rows.append([in_a.label, column_title(key), *texts, format_difference(key, difference)])
    return Table(["setting", "metric", f"{a.name}, %", f"{b.name}, %", "difference, points"], rows, marked)


def _by_class(a: ComparedItem, b: ComparedItem, pairs: list[Pair]) -> Figure:
    """Draw precision and recall of each class in two panels, for the chosen pair of settings."""
    classes, labels = pairs[0][0].classes, [in_a.label for in_a, _ in pairs]
    traces: list[Trace] = []
    rows: list[list[str]] = []
    for label, pair in zip(labels, pairs, strict=True):
        for panel, metric in enumerate(("precision", "recall")):
            for index, (item, setting) in enumerate(zip((a, b), pair, strict=True)):
                keys = [f"val/{metric}/{name}" for name in classes]
                means = [setting.mean_sd(key) for key in keys]
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "name": escape_tags(item.name), "legendgroup": item.name,
                        "x": [escape_tags(name) for name in classes], "y": [mean for mean, _ in means],
                        "error_y": {"type": "data", "array": np.nan_to_num([sd for _, sd in means]).tolist()},
                        "marker": marker(index, 10), "showlegend": panel == 0,
                        "meta": {"setting": label} if len(pairs) > 1 else {},
                        "hovertemplate": "%{x}: %{y:.4f}<extra>%{fullData.name}</extra>", **axes(panel),
                    }
                )  # fmt: skip
                rows.append([label, item.name, metric, *map(format_mean, keys, *zip(*means, strict=True))])
    return Figure(
        "by-class", "Each class, side by side", "Means over the seeds; bars are one standard deviation.",
        traces,
        {"scattermode": "group", "xaxis": categories(classes), "xaxis2": categories(classes)},
        Table(["setting", "of", "metric", *classes], rows),
        [Choice("setting", "Setting", labels)] if len(labels) > 1 else [],
        panels=["precision", "recall"], panel_width=320, panel_height=300,
    )  # fmt: skip


def _confusion(a: ComparedItem, b: ComparedItem, pair: Pair) -> Figure | None:
    """Draw the confusion matrices of a pair; None unless both have predictions of the same images.

    Where each seed has validation images of its own, they are drawn for one seed that both have.
    """
    settings = [
        dataclasses.replace(s, label=f"{item.name}: {s.label}", runs=[str(item.folder / run) for run in s.runs])
        for item, s in zip((a, b), pair, strict=True)
    ]
    shown = shown_predictions(Path(), settings)
    if not shown.same_images or len(shown.predictions) < len({setting.label for setting in settings}):
        return None
    figure = confusion(shown.predictions, pair[0].classes, settings[0].label)
    figure.caption += f" {shown.text}"
    return figure
