"""A kept study as summaries: the search and each confirmation; and its tables, its section of RESULTS.md."""

import dataclasses
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.report import (
    Confirmation,
    Summary,
    choices_table,
    confirmation_of,
    escape_markdown,
    fewest_seeds,
    markdown_verdicts,
    metric_title,
    summarise,
)
from losslab.study import GROUPS, Result, Setting, SettingResults, StudyFile, class_groups, short_names

from .kept import SEARCH, Kept, read_kept
from .measures import CONFIDENCE, ECE_PSI

MARKS = {
    "higher": " ▲",
    "lower": " ▼",
    "higher, by less than the margin": " △",
    "lower, by less than the margin": " ▽",
    "alike": " ≈",
    "not shown": "",
}
TITLES = {
    ECE_PSI: "ECE after psi",
    CONFIDENCE: "confidence",
    "test/acc": "accuracy",
    "train/acc_running": "running training accuracy",
    "train/acc": "training accuracy",
}


@dataclasses.dataclass
class KeptStudy:
    """A kept file, summarised.

    Args:
        kept: the file's content.
        search: the sweep's summary, of the validation split.
        confirmations: the summaries of the test split, by the confirmation's name.
        tuned: the tuned values by their short names, by setting's hash; {} unless one was chosen for all seeds.
        untuned: the label without the tuned values, by setting's hash; {} likewise.
    """

    kept: Kept
    search: Summary
    confirmations: dict[str, Confirmation]
    tuned: dict[str, dict[str, Any]]
    untuned: dict[str, str]

    @property
    def newest(self) -> Confirmation | None:
        """The last confirmation, if there is one."""
        return next(reversed(self.confirmations.values()), None)

    @property
    def has_tail(self) -> bool:
        """Whether some classes have few training images."""
        return any(class_groups(result.get("class_counts", {})) for result in self.kept.results)

    def tuned_values(self, setting: SettingResults) -> dict[str, Any]:
        """Return a setting's tuned values by the names of their columns; the medians of what its seeds chose."""
        names = short_names({path: None for known in self.search.settings for path in known.choices})
        medians = {f"{names[path]}, median": f"{value:g}" for path, value in setting.median_choices.items()}
        return medians or self.tuned.get(setting.setting_hash, {})

    def results_of(self, stage: str, setting: SettingResults) -> list[Result]:
        """Return the kept results of a setting of a confirmation."""
        return [r for r in self.kept.stage_results(stage) if r["setting_hash"] == setting.setting_hash]


def read_kept_study(file: Path) -> KeptStudy | None:
    """Return the study in a kept file, or None if there is no file."""
    kept = read_kept(file)
    if kept is None:
        return None
    study, searched = kept.study, kept.stage_results(SEARCH)
    untuned = _labels_without_tuned(searched, study)
    names = {} if study.tunes_each_seed else short_names(study.tune)
    tuned = {
        result["setting_hash"]: {name: result["setting"]["values"][path] for path, name in names.items()}
        for result in searched
        if names
    }
    confirmations = {}
    for stage in kept.stages:
        header = kept.header["confirmations"][stage]
        results = [
            r
            | {"label": untuned.get(r["setting_hash"], r["label"]), "metrics": r["metrics"] | metrics_by_class_size(r)}
            for r in kept.stage_results(stage)
        ]
        if results:
            whole = len(results) == header["settings"] * len(header["declared"]["seeds"])
            name = f"{kept.header['name']}/{stage}"
            confirmation = confirmation_of(name, results, StudyFile.from_declared(header["declared"]), whole)
            _add_image_spread(confirmation.summary, header.get("image_spread", {}))
            confirmations[stage] = confirmation
    return KeptStudy(kept, summarise(kept.header["name"], searched, study), confirmations, tuned, untuned)


def _add_image_spread(summary: Summary, spread: dict[str, dict[str, float]]) -> None:
    """Add the kept spread over test images, by setting's hash and metric, to a confirmation's verdicts."""
    if summary.family is not None:
        labels = {setting.setting_hash: setting.label for setting in summary.settings}
        images = {(labels[key], metric): value for key, own in spread.items() for metric, value in own.items()}
        summary.family = dataclasses.replace(summary.family, images=images)


def metrics_by_class_size(result: Result) -> dict[str, float]:
    """Return precision and recall of the largest class, of the second and so on; {} where classes have one size.

    Where the seed decides which class is rare, a class has another size with each seed; the largest, the second, ...
    have not. Keys are such as "test/recall/of 50", from the number of training images.
    """
    counts: dict[str, int] = result["class_counts"]
    if not class_groups(counts):
        return {}
    return {
        f"test/{metric}/of {count}": result["metrics"][f"test/{metric}/{name}"]
        for name, count in counts.items()
        for metric in ("precision", "recall")
    }


def _labels_without_tuned(searched: list[Result], study: StudyFile) -> dict[str, str]:
    """Return labels by setting's hash: "gamma=2", or the arm where nothing but the tuned values varied."""
    several_arms = len({result["setting"]["arm"] for result in searched}) > 1
    labels = {}
    for result in searched if study.tune and not study.tunes_each_seed else []:
        values = {path: value for path, value in result["setting"]["values"].items() if path not in study.tune}
        labels[result["setting_hash"]] = Setting(result["setting"]["arm"], values).label(several_arms)
    return labels


# A study's section


def study_section(study: KeptStudy, root: Path, costs: bool) -> str:
    """Return question, protocol, means, verdicts, per-class table, search, and the numbers' origin, as Markdown.

    Args:
        study: the study.
        root: the folder that the study's command was called in.
        costs: whether the tables have training accuracies, parameters and seconds of a training.
    """
    parts = [_read_question(study, root), protocol(study)]
    for stage, confirmation in study.confirmations.items():
        parts += _confirmation_parts(study, stage, confirmation, costs)
    if not study.confirmations:
        parts.append("Searched; not confirmed yet.")
    if study.search.study.tunes_each_seed:
        parts.append(_fold("What each seed chose on validation", _choices(study)))
    else:
        parts.append(_fold("The search on validation", search_table(study)))
    return "\n\n".join([*parts, _provenance(study)])


def protocol(study: KeptStudy) -> str:
    """Return how the study's values were chosen, and by which images, in sentences."""
    file, header = study.search.study, study.kept.header
    seeds, names = len(file.seeds), " and ".join(short_names(file.tune).values())
    if file.tunes_each_seed:
        if file.lists:
            ((_, values),) = file.lists.items()
            among = f"a list from {values[0]:g} to {values[-1]:g} in steps of a factor of {_factor(values)}, which is "
            among += "extended while the best value lies at its end"
        else:
            tried, seed = study.search.tried, file.seeds[0]
            drawn = sum(seed in s.seeds and file.candidate(s) == file.candidate(tried[0]) for s in tried)
            among = f"{drawn} points that are drawn afresh for each seed, the same for all settings"
            among += ", and with it a loss's own parameter where it has one" * bool(file.arm_tune)
        validation = {
            "balanced": "balanced, with the right labels, whatever the training images are",
            "like_training": "like the training images, with the same long tail and the same share of wrong labels",
        }[header["validation"]]
        return (
            f"Protocol: each of {seeds} seeds has a split of its own, and chooses the {names} of each setting by its "
            f"own validation images, from {among}. A seed's result is that of its choice, so the intervals contain "
            f"the choice. Validation images are {validation}."
        )
    split = "" if "validation" in header else " All seeds share one validation split."
    if not file.tune:
        return f"Protocol: nothing is tuned.{split}"
    ((_, values),) = file.lists.items()
    by = "one seed" if seeds == 1 else f"{seeds} seeds together"
    return (
        f"**Former protocol**: one {names} for all seeds, chosen by {by} from a list in steps of a factor of "
        f"{_factor(values)}; fresh seeds confirm it.{split} No interval contains that choice, and a better value may "
        "lie between two of the list. Verdicts needed the interval alone when these numbers were first written; below "
        "they need the signs too. The study file is that of the commit below; today's gives another study, by the "
        "present protocol."
    )


def _factor(values: list[float]) -> str:
    return f"{max(high / low for low, high in itertools.pairwise(values)):.2g}"


def means_table(study: KeptStudy, summary: Summary, stage: str, costs: bool = False) -> str:
    """Return a table with a row for each setting of a confirmation; marks stand for the family's verdicts."""
    groups = ("macro", *GROUPS) if study.has_tail else ("macro",)
    keys = [f"test/{metric}/{group}" for group in groups for metric in ("precision", "recall")]
    if costs:
        keys = ["train/acc_running", "train/acc", "test/acc", *keys, "test/f1/macro"]
    else:
        keys += ["test/f1/macro", "test/acc"]
    keys += ["test/ece", ECE_PSI, CONFIDENCE]
    keys = [key for key in keys if any(key in setting.values for setting in summary.settings)]
    tuned = list(dict.fromkeys(name for setting in summary.settings for name in study.tuned_values(setting)))
    columns = ["", *tuned, *(TITLES.get(key) or metric_title(key) for key in keys)]
    columns += ["accuracy of all runs together", "parameters", "seconds"] if costs else []
    rows = [
        [
            setting.label,
            *(f"{study.tuned_values(setting).get(name, '')}" for name in tuned),
            *(format_cell(summary, setting, key) for key in keys),
            *(_costs(study, stage, setting) if costs else []),
        ]
        for setting in summary.settings
    ]
    return markdown_table(columns, rows)


def class_table(study: KeptStudy, summary: Summary, stage: str) -> str:
    """Return per-class precision and recall, a row for each setting; by size where the seed decides who is rare."""
    counts = study.kept.stage_results(stage)[0]["class_counts"]
    names, lead = list(counts), ""
    if study.has_tail:
        names = [f"of {count}" for count in sorted(counts.values(), reverse=True)]
        lead = "Classes by their number of training images; the seed decides which digit it is.\n\n"
    tables = []
    for metric in ("precision", "recall"):
        keys = [f"test/{metric}/{name}" for name in names]
        rows = [[s.label, *(format_mean_sd(s, k) if k in s.values else "–" for k in keys)] for s in summary.settings]
        tables.append(markdown_table([metric, *names], rows))
    return lead + "\n\n".join(tables)


def search_table(study: KeptStudy) -> str:
    """Return means of the monitored metric: a row for each setting, a column for each tuned value, the best bold."""
    search = study.search
    monitor, chosen = search.study.monitor, {s.setting_hash for s in search.settings}
    seeds = f"{metric_title(monitor)} in percent, mean of seeds {', '.join(map(str, search.study.seeds))}"
    if not search.study.tune:
        rows = [[setting.label, format_mean_sd(setting, monitor)] for setting in search.tried]
        return f"{seeds}.\n\n{markdown_table(['', metric_title(monitor)], rows)}"
    values = sorted({tuple(tuned.values()) for tuned in study.tuned.values()})
    found: dict[str, dict[tuple[float, ...], str]] = {}
    for setting in search.tried:
        text = f"{100 * setting.mean_sd(monitor)[0]:.2f}"
        text = f"**{text}**" if setting.setting_hash in chosen else text
        row = found.setdefault(repr(search.study.candidate(setting)), {})
        row[tuple(study.tuned[setting.setting_hash].values())] = text
    labels = [study.untuned[setting.setting_hash] for setting in search.settings]
    rows = [
        [label, *(row.get(value, "") for value in values)] for label, row in zip(labels, found.values(), strict=True)
    ]
    names = ", ".join(next(iter(study.tuned.values())))
    lines = markdown_table([names, *(", ".join(map(str, value)) for value in values)], rows, escaped=False)
    return f"{seeds}; bold is chosen, an empty cell was not tried.\n\n{lines}"


def format_cell(summary: Summary, setting: SettingResults, key: str) -> str:
    """Return mean ± sd in percent and the mark of its verdict; a dash if the setting has no such metric."""
    if key not in setting.values:
        return "–"
    verdict = summary.family.of(setting.label, key) if summary.family is not None else None
    return format_mean_sd(setting, key) + (MARKS[verdict.word] if verdict is not None else "")


def legend(summary: Summary) -> str:
    """Return what the marks in the cells mean; the summary must have a baseline."""
    assert summary.baseline is not None
    margins = [f"{100 * margin:g} of {metric_title(key)}" for key, margin in summary.study.margins.items()]
    less = f"; △, ▽ by less than the margin, ≈ alike within it (margins in points: {', '.join(margins)})"
    return f"▲ higher, ▼ lower than {escape_markdown(summary.baseline.label)}{less if margins else ''}"


def format_mean_sd(setting: SettingResults, key: str) -> str:
    """Return a metric in percent, such as "97.12 ± 0.10"."""
    mean, sd = setting.mean_sd(key)
    return f"{100 * mean:.2f}" + ("" if len(setting.seeds) < 2 else f" ± {100 * sd:.2f}")


def markdown_table(columns: list[str], rows: list[list[str]], escaped: bool = True) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    cells = [[escape_markdown(text) if escaped else text for text in row] for row in [columns, *rows]]
    divider = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return "\n".join([f"| {' | '.join(cells[0])} |", f"|{divider}|", *(f"| {' | '.join(row)} |" for row in cells[1:])])


def _confirmation_parts(study: KeptStudy, stage: str, confirmation: Confirmation, costs: bool) -> list[str]:
    summary = confirmation.summary
    unfinished = "" if confirmation.whole else " Not finished: what is missing is not compared."
    against = f"; {legend(summary)}" if summary.baseline else ""
    fresh = "" if study.kept.is_of_sweep(stage) else "fresh "
    heading = (
        f"{escape_markdown(summary.name)}: test split of {study.kept.header['data_name']}, {len(summary.study.seeds)} "
        f"{fresh}seeds, mean ± sd in percent{against}.{unfinished}"
    )
    if summary.family is not None and summary.family.seeds < fewest_seeds(max(summary.family.size, 1)):
        heading += f" {summary.family.method}"
    parts = [heading, means_table(study, summary, stage, costs)]
    if summary.family is not None and summary.family.verdicts:
        parts.append(_fold("The verdicts: differences with their intervals", markdown_verdicts(summary)))
    parts.append(_fold("Precision and recall of each class", class_table(study, summary, stage)))
    return parts


def _choices(study: KeptStudy) -> str:
    table = choices_table(study.search)
    assert table is not None
    what = f"Each seed's choice, by {metric_title(study.search.study.monitor)} on its own validation images"
    return f"{what}; * the lowest or the highest value that it tried.\n\n{markdown_table(table.columns, table.rows)}"


def _costs(study: KeptStudy, stage: str, setting: SettingResults) -> list[str]:
    """Return accuracy of the ensemble, parameters, and mean seconds of a training."""
    results = study.results_of(stage, setting)
    counts = {result["parameters"] for result in results if "parameters" in result}
    seconds = sum(result["seconds"] for result in results) / len(results)
    ensemble = study.kept.header["confirmations"][stage]["ensembles"].get(setting.setting_hash)
    together = "–" if ensemble is None else f"{100 * ensemble:.2f} (n = {len(results)})"
    return [together, " or ".join(f"{count:,}" for count in sorted(counts)) or "–", f"{seconds:.1f}"]


def _read_question(study: KeptStudy, root: Path) -> str:
    """Return the question in the header of the study's YAML file."""
    words = shlex.split(study.kept.header["command"])
    file = root / words[words.index("--config") + 1]
    try:
        lines = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    except OSError as error:
        raise UserError(f"{file}, the file of {study.kept.header['name']}, cannot be read: {error.strerror}.") from None
    found = re.search(r"Question:(.*?)(?=$|\s\w+:\s\s)", " ".join(lines))
    question = found[1].strip() if found else ""
    return escape_markdown(question[:1].upper() + question[1:])


def _provenance(study: KeptStudy) -> str:
    """Return commands, commits, devices, seconds and reads of the test images, in one line."""
    header, results = study.kept.header, study.kept.trainings
    commands = [header["command"], *(header["confirmations"][stage]["command"] for stage in study.confirmations)]
    commits = sorted({f"{r['git_commit'] or 'none'}"[:7] + ("+" if r["git_dirty"] else "") for r in results})
    devices = [f"{header['cpu_cores']} cores" if d == "cpu" else d for d in sorted({r["device"] for r in results})]
    reads = "; ".join(confirmation.reads_text for confirmation in study.confirmations.values()) or "none"
    seconds = sum(result["seconds"] for result in results)
    return (
        f"{', '.join(f'`{command}`' for command in commands)} · commit {', '.join(commits)} · {', '.join(devices)} · "
        f"{len(results)} trainings, {seconds:,.0f} s in total · test images read: {reads}."
    )


def _fold(title: str, text: str) -> str:
    """Return text that a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
