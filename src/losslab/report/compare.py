"""One of two things that are compared: a study or a run, with the same parts."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from losslab import __version__
from losslab.errors import UserError
from losslab.report.figure import SYMBOLS, Choice, Figure, Table, Trace, axes, categories, panel_title, plain
from losslab.report.predictions import confusion
from losslab.report.records import setting_predictions
from losslab.report.summary import metric_title, points, summarise_folder
from losslab.report.tables import VerdictRow, verdict_rows
from losslab.report.verdicts import Family, compare_pairs
from losslab.run import SEED, Config, RunFolder, differences, find_run
from losslab.study import SettingResults, group_by_setting, percent, with_group_metrics


@dataclass
class ComparedItem:
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


def read_compared_item(path: Path) -> ComparedItem:
    """A study, a run, or the newest finished run of a folder.

    Raises:
        UserError: it is none of them, or has no result yet.
    """
    if (path / "study.json").is_file():
        summary, results = summarise_folder(path)
        config = json.loads((path / "study.json").read_text())["experiment"]
        endpoints = summary.study.endpoints(results)
        return ComparedItem(path.name, path, group_by_setting(results), endpoints, config, results, True)
    return _run(find_run(path, finished=True))


def _run(run: RunFolder) -> ComparedItem:
    manifest = run.manifest()
    epochs = run.epochs()
    if not epochs:
        raise UserError(f"{run.path} has no epoch in metrics.csv: there is nothing to compare.")
    measured = {key: float(value) for key, value in epochs[-1].items() if key.startswith(("val/", "train/")) and value}
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
    return ComparedItem(
        name, run.path, [setting], [k for k in metrics if k.endswith("/macro")], config, [manifest], False
    )


Pair = tuple[SettingResults, SettingResults]


@dataclass
class ComparisonContent:
    """Fields are the template's; `marked` are the numbers of the rows of a table that differ."""

    names: tuple[str, str]
    answer: list[str]
    configuration: Table
    sources: Table
    sources_marked: list[int]
    means: Table
    means_marked: list[int]
    note: str
    verdict_columns: list[str]
    verdicts: list[VerdictRow]
    family_size: int
    method: str
    figures: list[Figure]
    command: str
    version: str = __version__


def comparison_content(a: ComparedItem, b: ComparedItem) -> ComparisonContent:
    """Compare `b` with `a`.

    Raises:
        UserError: one is a study and the other a run, or they have no setting, or not the classes, in common.
    """
    if a.is_study != b.is_study:
        kinds = ("a study", "a run") if a.is_study else ("a run", "a study")
        raise UserError(f"{a.name} is {kinds[0]} and {b.name} {kinds[1]}: compare two of a kind.")
    if a.name == b.name:  # of different folders
        a.name, b.name = str(a.folder), str(b.folder)
    pairs = _pairs(a, b)
    if not pairs:
        raise UserError(f"{a.name} and {b.name} have no setting in common.")
    if pairs[0][0].classes != pairs[0][1].classes:
        raise UserError(f"{a.name} and {b.name} have different classes: nothing can be set side by side.")
    same_images = all(a.hashes(part) == b.hashes(part) for part in ("train", "split"))
    family = _family(a, pairs) if same_images else None
    means, marked = _means(a, b, pairs)
    sources, sources_marked = _sources(a, b)
    changed = [line.partition(": ") for line in differences(a.config, b.config)]
    figures = [_by_class(a, b, pairs)]
    confused = _confusion(a, b, pairs[0]) if same_images else None
    return ComparisonContent(
        names=(a.name, b.name),
        answer=_answer(a, b, pairs, family, len(changed)),
        configuration=Table(["setting of", a.name, b.name], [[path, *_two(change)] for path, _, change in changed]),
        sources=sources,
        sources_marked=sources_marked,
        means=means,
        means_marked=marked,
        note="" if same_images else "Images or split differ: the means stand side by side, and nothing is compared.",
        verdict_columns=[metric_title(key) for key in family.metrics] if family else [],
        verdicts=verdict_rows(family) if family else [],
        family_size=family.size if family else 0,
        method=family.method if family else "",
        figures=[*figures, *([confused] if confused else [])],
        command=f"losslab report --compare {shlex.quote(str(a.folder))} {shlex.quote(str(b.folder))}",
    )


def _pairs(a: ComparedItem, b: ComparedItem) -> list[Pair]:
    """Settings of both that stand for the same: two runs, or the same arm and values in two studies."""
    if not a.is_study:
        return [(a.settings[0], b.settings[0])]
    theirs = {(setting.arm, str(setting.varied)): setting for setting in b.settings}
    return [(s, theirs[key]) for s in a.settings if (key := (s.arm, str(s.varied))) in theirs]


def _family(a: ComparedItem, pairs: list[Pair]) -> Family | None:
    """The verdicts on b against a, over the seeds that all pairs share."""
    seeds = sorted(set.intersection(*(set(s.seeds) for pair in pairs for s in pair)))
    keys = [key for key in a.endpoints if all(key in s.values for pair in pairs for s in pair)]
    if not seeds or not keys:
        return None
    chosen = [(_at(theirs, seeds), _at(ours, seeds)) for ours, theirs in pairs]
    return compare_pairs(chosen, a.name, keys, len(seeds))


def _at(setting: SettingResults, seeds: list[int]) -> SettingResults:
    kept = [setting.seeds.index(seed) for seed in seeds]
    values = {key: [numbers[i] for i in kept] for key, numbers in setting.values.items()}
    label, classes = setting.label, setting.classes
    return SettingResults(label, setting.arm, setting.varied, setting.setting_hash, seeds, values, classes, [])


def _answer(a: ComparedItem, b: ComparedItem, pairs: list[Pair], family: Family | None, changed: int) -> list[str]:
    what = f"{len(pairs)} settings in common" if a.is_study else "two runs"
    first = (
        f"{b.name} against {a.name}: {what}; in the configuration "
        f"{changed or 'no'} value{'s differ' if changed != 1 else ' differs'}."
    )
    if family is None:
        return [first, "Nothing is compared: they do not share images, split, seeds and metrics."]
    shown = "; ".join(f"{metric_title(v.metric)} of {v.setting} is {v.word}" for v in family.shown)
    return [first, f"Shown: {shown}." if shown else "No difference is shown.", family.method]


def _two(change: str) -> list[str]:
    before, _, after = change.partition(" -> ")
    return [before, after]


def _sources(a: ComparedItem, b: ComparedItem) -> tuple[Table, list[int]]:
    def known(side: ComparedItem, name: str) -> str:
        return ", ".join(sorted({str(record.get(name, "not recorded")) for record in side.records}))

    rows = [[name, known(a, name), known(b, name)] for name in ("data_name", "git_commit", "device", "precision")]
    for part in ("train", "split"):
        rows.append([f"{part} (SHA-256)", *(", ".join(sorted(h[:12] for h in s.hashes(part))) for s in (a, b))])
    seeds = [", ".join(map(str, sorted({seed for s in side.settings for seed in s.seeds}))) for side in (a, b)]
    rows.append(["seeds", *seeds])
    return Table(["what", a.name, b.name], rows), [i for i, row in enumerate(rows) if row[1] != row[2]]


def _means(a: ComparedItem, b: ComparedItem, pairs: list[Pair]) -> tuple[Table, list[int]]:
    rows: list[list[str]] = []
    marked = []
    for ours, theirs in pairs:
        for key in ours.values:
            if key in theirs.values and key.startswith("val/") and key != "val/loss":
                means = ours.mean_sd(key), theirs.mean_sd(key)
                difference = means[1][0] - means[0][0]
                if abs(difference) >= 0.005:
                    marked.append(len(rows))
                rows.append([ours.label, metric_title(key), percent(*means[0]), percent(*means[1]), points(difference)])
    return Table(["setting", "metric", f"{a.name}, %", f"{b.name}, %", "difference, points"], rows), marked


def _by_class(a: ComparedItem, b: ComparedItem, pairs: list[Pair]) -> Figure:
    classes = pairs[0][0].classes
    traces: list[Trace] = []
    rows: list[list[str]] = []
    for pair in pairs:
        for panel, metric in enumerate(("precision", "recall")):
            for index, (side, setting) in enumerate(zip((a, b), pair, strict=True)):
                means = [setting.mean_sd(f"val/{metric}/{name}") for name in classes]
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "name": plain(side.name), "legendgroup": side.name,
                        "x": [plain(name) for name in classes], "y": [mean for mean, _ in means],
                        "error_y": {"type": "data", "array": np.nan_to_num([sd for _, sd in means]).tolist()},
                        "marker": {"color": f"@c{index}", "symbol": SYMBOLS[index], "size": 10},
                        "showlegend": panel == 0, "meta": {"setting": pair[0].label} if len(pairs) > 1 else {},
                        "hovertemplate": "%{x}: %{y:.4f}<extra>%{fullData.name}</extra>", **axes(panel),
                    }
                )  # fmt: skip
                rows.append([pair[0].label, side.name, metric, *(percent(*mean) for mean in means)])
    layout: dict[str, Any] = {
        "annotations": [panel_title("precision", 0), panel_title("recall", 1)],
        "scattermode": "group",
    }
    layout |= {"xaxis": categories(classes), "xaxis2": categories(classes)}
    labels = [ours.label for ours, _ in pairs]
    return Figure(
        "by-class", "Each class, side by side", "Means over the seeds; bars are one standard deviation.",
        traces, layout, Table(["setting", "of", "metric", *classes], rows),
        [Choice("setting", "Setting", labels)] if len(labels) > 1 else [],
        panels=2, panel_width=320, panel_height=300,
    )  # fmt: skip


def _confusion(a: ComparedItem, b: ComparedItem, pair: Pair) -> Figure | None:
    read = [setting_predictions(side.folder, setting) for side, setting in zip((a, b), pair, strict=True)]
    if read[0] is None or read[1] is None or not np.array_equal(read[0].labels, read[1].labels):
        return None
    names = [f"{side.name}: {setting.label}" for side, setting in zip((a, b), pair, strict=True)]
    return confusion(names, [read[0], read[1]], pair[0].classes, names[0])
