"""The headline table: means over the classes, a row a setting."""

from losslab.report.figure import Table
from losslab.report.study_summary import Summary, name_of
from losslab.study.results import SettingResults, percent

HEADLINE = ("precision/macro", "recall/macro", "precision/tail", "recall/tail", "f1/macro", "ece")


def headline(summary: Summary, settings: list[SettingResults]) -> Table:
    """Mean and sd over the seeds, in percent, of these settings of the study."""
    keys = headline_keys(summary)
    rows = [[s.label, str(len(s.seeds)), *(percent(*s.mean_sd(key)) for key in keys)] for s in settings]
    return Table(["setting", "n", *(f"{name_of(key)}, %" for key in keys)], rows)


def headline_keys(summary: Summary) -> list[str]:
    """The keys of the table that all settings have; a class may bear the name "tail", and is no group."""
    settings, split = summary.settings, summary.declared.split
    return [
        f"{split}/{part}"
        for part in HEADLINE
        if all(f"{split}/{part}" in s.values and part.split("/")[-1] not in s.classes for s in settings)
    ]
