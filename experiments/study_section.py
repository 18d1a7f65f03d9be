"""A study's section of RESULTS.md."""

import re
import shlex
from pathlib import Path

from kept_study import KeptStudy
from run_measures import CONFIDENCE, ECE_PSI

from losslab.errors import UserError
from losslab.report import Confirmation, Summary, escape_markdown, markdown_verdicts, metric_title
from losslab.study import GROUPS, SettingResults

MARKS = {"higher": " ▲", "lower": " ▼", "not shown": ""}
NAMES = {
    ECE_PSI: "ECE after psi",
    CONFIDENCE: "confidence",
    "test/acc": "accuracy",
    "train/acc_running": "running training accuracy",
    "train/acc": "training accuracy",
}


def section(study: KeptStudy, root: Path, costs: bool) -> str:
    """Question, confirmation, verdicts, classes, search, and where the numbers come from.

    Args:
        study: what to show.
        root: the folder that the study's command names its file from.
        costs: whether parameters and seconds a training belong to the answer.
    """
    parts = [question(study, root)]
    for stage, confirmation in study.confirmations.items():
        parts += _confirmed(study, stage, confirmation, costs)
    if not study.confirmations:
        parts.append("Searched; not confirmed yet.")
    parts += [folded("The search on validation", search_table(study)), provenance(study)]
    return "\n\n".join(parts)


def _confirmed(study: KeptStudy, stage: str, confirmation: Confirmation, costs: bool) -> list[str]:
    summary = confirmation.summary
    unfinished = "" if confirmation.whole else " Not finished: what is missing is not compared."
    against = f"; ▲ higher, ▼ lower than {escape_markdown(summary.baseline.label)}" if summary.baseline else ""
    heading = (
        f"{escape_markdown(summary.name)}: test split of {study.kept.header['data_name']}, {len(summary.study.seeds)} "
        f"fresh seeds, mean ± sd in percent{against}.{unfinished}"
    )
    parts = [heading, means_table(study, summary, stage, costs)]
    if summary.family is not None and summary.family.verdicts:
        parts.append(folded("The verdicts: differences with their intervals", markdown_verdicts(summary)))
    parts.append(folded("Precision and recall of each class", class_table(study, summary, stage)))
    return parts


def means_table(study: KeptStudy, summary: Summary, stage: str, costs: bool = False) -> str:
    """A row a setting of a confirmation; what the family says of a cell stands beside it."""
    groups = ("macro", *GROUPS) if study.has_tail else ("macro",)
    keys = [f"test/{metric}/{group}" for group in groups for metric in ("precision", "recall")]
    keys = (
        ["train/acc_running", "train/acc", "test/acc", *keys, "test/f1/macro"]
        if costs
        else [*keys, "test/f1/macro", "test/acc"]
    )
    keys += ["test/ece", ECE_PSI, CONFIDENCE]
    keys = [key for key in keys if any(key in setting.values for setting in summary.settings)]
    tuned = list(next(iter(study.tuned.values()), {}))
    columns = ["", *tuned, *(NAMES.get(key) or metric_title(key) for key in keys)]
    columns += ["accuracy of all runs together", "parameters", "seconds"] if costs else []
    rows = [
        [
            setting.label,
            *(f"{study.tuned.get(setting.setting_hash, {}).get(name, '')}" for name in tuned),
            *(cell(summary, setting, key) for key in keys),
            *(_costs(study, stage, setting) if costs else []),
        ]
        for setting in summary.settings
    ]
    return table(columns, rows)


def cell(summary: Summary, setting: SettingResults, key: str) -> str:
    """Mean ± sd in percent, and a mark for what the family shows; a dash where there is no such metric."""
    if key not in setting.values:
        return "–"
    verdict = summary.family.of(setting.label, key) if summary.family is not None else None
    return mean_sd(setting, key) + (MARKS[verdict.word] if verdict is not None else "")


def mean_sd(setting: SettingResults, key: str) -> str:
    """Such as "97.12 ± 0.10", in percent."""
    mean, sd = setting.mean_sd(key)
    return f"{100 * mean:.2f}" + ("" if len(setting.seeds) < 2 else f" ± {100 * sd:.2f}")


def _costs(study: KeptStudy, stage: str, setting: SettingResults) -> list[str]:
    results = study.results_of(stage, setting)
    counts = {result["parameters"] for result in results if "parameters" in result}
    seconds = sum(result["seconds"] for result in results) / len(results)
    ensemble = study.kept.header["confirmations"][stage]["ensembles"].get(setting.setting_hash)
    together = "–" if ensemble is None else f"{100 * ensemble:.2f} (n = {len(results)})"
    return [together, " or ".join(f"{count:,}" for count in sorted(counts)) or "–", f"{seconds:.1f}"]


def class_table(study: KeptStudy, summary: Summary, stage: str) -> str:
    """A row a setting, precision and recall of each class; by size where the seed decides which class is rare."""
    first = study.kept.of_stage(stage)[0]
    names = list(first["class_counts"])
    lead = ""
    if study.has_tail:
        names = [f"of {count}" for count in sorted(first["class_counts"].values(), reverse=True)]
        lead = "Classes by their number of training images; the seed decides which digit it is.\n\n"
    tables = []
    for metric in ("precision", "recall"):
        keys = [f"test/{metric}/{name}" for name in names]
        rows = [[s.label, *(mean_sd(s, key) if key in s.values else "–" for key in keys)] for s in summary.settings]
        tables.append(table([metric, *names], rows))
    return lead + "\n\n".join(tables)


def search_table(study: KeptStudy) -> str:
    """The mean of the monitored metric; a row a setting and a column a tuned value, and the chosen one bold."""
    search = study.search
    monitor, chosen = search.study.monitor, {s.setting_hash for s in search.settings}
    seeds = f"{metric_title(monitor)} in percent, mean of seeds {', '.join(map(str, search.study.seeds))}"
    if not search.study.tune:
        rows = [[setting.label, mean_sd(setting, monitor)] for setting in search.tried]
        return f"{seeds}.\n\n{table(['', metric_title(monitor)], rows)}"
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
    lines = table([names, *(", ".join(map(str, value)) for value in values)], rows, escaped=False)
    return f"{seeds}; bold is chosen, an empty cell was not tried.\n\n{lines}"


def question(study: KeptStudy, root: Path) -> str:
    """The question in the header of the study's file."""
    words = shlex.split(study.kept.header["command"])
    file = root / words[words.index("--config") + 1]
    try:
        lines = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    except OSError as error:
        raise UserError(f"{file}, the file of {study.kept.header['name']}, cannot be read: {error.strerror}.") from None
    text = re.search(r"Question:(.*?)(?=$|\s\w+:\s\s)", " ".join(lines))
    asked = text[1].strip() if text else ""
    return escape_markdown(asked[:1].upper() + asked[1:])


def provenance(study: KeptStudy) -> str:
    """Commands, commits, device, seconds and reads of the test images, in one line."""
    header, results = study.kept.header, study.kept.results
    commands = [header["command"], *(header["confirmations"][stage]["command"] for stage in study.confirmations)]
    commits = sorted({f"{r['git_commit'] or 'none'}"[:7] + ("+" if r["git_dirty"] else "") for r in results})
    devices = [f"{header['cpu_cores']} cores" if d == "cpu" else d for d in sorted({r["device"] for r in results})]
    reads = "; ".join(confirmation.reads_told for confirmation in study.confirmations.values()) or "none"
    seconds = sum(result["seconds"] for result in results)
    return (
        f"{', '.join(f'`{command}`' for command in commands)} · commit {', '.join(commits)} · {', '.join(devices)} · "
        f"{len(results)} trainings, {seconds:,.0f} s in total · test images read: {reads}."
    )


def folded(title: str, text: str) -> str:
    """What a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def table(columns: list[str], rows: list[list[str]], escaped: bool = True) -> str:
    """A Markdown table; the first column is left, the others right."""
    cells = [[escape_markdown(text) if escaped else text for text in row] for row in [columns, *rows]]
    divider = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return "\n".join([f"| {' | '.join(cells[0])} |", f"|{divider}|", *(f"| {' | '.join(row)} |" for row in cells[1:])])
