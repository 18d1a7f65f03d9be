"""A study's summary on the terminal, and as summary.csv."""

import csv
import io
from pathlib import Path

from rich.console import Console

from losslab.report.headline import headline_keys
from losslab.report.study_summary import Summary, interval, name_of
from losslab.run.folder import write_whole
from losslab.run.terminal import console, dense_table
from losslab.study.results import percent


def show_summary(summary: Summary, folder: Path) -> None:
    """Print the summary, and write summary.csv into the study's folder."""
    _write_csv(folder / "summary.csv", summary)
    out = console()
    out.print(f"\n{summary.heading}", highlight=False)
    _print_headline(out, summary)
    for metric in ("precision", "recall"):
        _print_each_class(out, summary, metric)
    if summary.family is not None:
        _print_verdicts(out, summary)
    for sentence in summary.answer:
        out.print(sentence, highlight=False)


def _write_csv(path: Path, summary: Summary) -> None:
    """A comment line, then one row a setting: mean and sd of every metric, empty where a setting does not have it."""
    known = dict.fromkeys(key for setting in summary.settings for key in setting.values)
    keys = [key for key in known if key.startswith(("val/", "train/", "test/"))]
    table = io.StringIO()
    table.write(f"# {summary.heading}\n")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["setting", "seeds", *(f"{key} {part}" for key in keys for part in ("mean", "sd"))])
    for setting in summary.settings:
        cells: list[str] = []
        for key in keys:
            cells += [f"{number:.6f}" for number in setting.mean_sd(key)] if key in setting.values else ["", ""]
        writer.writerow([setting.label, len(setting.seeds), *cells])
    write_whole(path, table.getvalue())


def _print_headline(out: Console, summary: Summary) -> None:
    keys = headline_keys(summary)
    table = dense_table("setting", "n", *map(name_of, keys), title="means over the classes, %")
    for setting in summary.settings:
        table.add_row(setting.label, str(len(setting.seeds)), *(percent(*setting.mean_sd(key)) for key in keys))
    out.print(table)


def _print_each_class(out: Console, summary: Summary, metric: str) -> None:
    """One row a class, one column a setting; of more than six settings, the best three."""
    settings, split = summary.settings, summary.declared.split
    title = f"{metric}, %"
    if len(settings) > 6:
        settings = sorted(settings, key=lambda setting: -setting.mean_sd(f"{split}/f1/macro")[0])[:3]
        title += ", of the three settings with the best macro F1"
    table = dense_table("class", *(setting.label for setting in settings), title=title)
    for name in summary.settings[0].classes:
        table.add_row(name, *(percent(*setting.mean_sd(f"{split}/{metric}/{name}")) for setting in settings))
    out.print(table)


def _print_verdicts(out: Console, summary: Summary) -> None:
    family = summary.family
    assert family is not None
    title = f"minus {family.baseline}, in points, family of {family.size} comparisons"
    table = dense_table("setting", "metric", "difference", "verdict", "", title=title)
    for verdict in family.verdicts:
        cells = (verdict.setting, name_of(verdict.metric), interval(verdict), verdict.word, verdict.hint)
        table.add_row(*cells)
    out.print(table)
