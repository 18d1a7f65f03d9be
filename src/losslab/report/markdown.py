"""The summary as Markdown, for a README, a pull request, or a report on W&B."""

from collections.abc import Sequence

from losslab.report.confirmations import Confirmation
from losslab.report.headline import headline_keys
from losslab.report.study_summary import Summary, interval, name_of
from losslab.study.results import percent


def markdown(summary: Summary, confirmations: Sequence[Confirmation] = ()) -> str:
    """Of each confirmation and then of the search: the answer, the table of means and the verdicts."""
    parts = [f"# {escape(summary.name)}"]
    for confirmation in confirmations:
        parts += [f"## {escape(confirmation.summary.name)}", *_parts(confirmation.summary)]
        parts.append(confirmation.status_told)
    if confirmations:
        parts.append("## The search")
    return "\n\n".join([*parts, *_parts(summary)]) + "\n"


def _parts(summary: Summary) -> list[str]:
    compared = summary.family is not None and summary.family.verdicts
    return ["\n".join(map(escape, summary.answer)), means(summary), *([verdicts(summary)] if compared else [])]


def means(summary: Summary) -> str:
    """A row a setting: means over the classes, with their spread over the seeds."""
    keys = headline_keys(summary)
    table = _table(
        ["setting", "n", *map(name_of, keys)],
        [[s.label, str(len(s.seeds)), *(percent(*s.mean_sd(key)) for key in keys)] for s in summary.settings],
    )
    return f"{escape(summary.heading)}, in percent:\n\n{table}"


def verdicts(summary: Summary) -> str:
    """A row a comparison of the declared family."""
    family = summary.family
    assert family is not None
    table = _table(
        ["setting", "metric", "difference", "verdict", "to be shown"],
        [[v.setting, name_of(v.metric), interval(v), v.word, v.hint] for v in family.verdicts],
    )
    return (
        f"Minus {escape(family.baseline)}, in points; {escape(family.method)}\n\n{table}\n\n"
        "Conditional on this split and these evaluation images."
    )


def escape(text: str) -> str:
    """A name that shall be no markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text.replace("\n", " "))


def _table(columns: list[str], rows: list[list[str]]) -> str:
    escaped = [[escape(cell) for cell in row] for row in [columns, *rows]]
    divider = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return "\n".join(
        [f"| {' | '.join(escaped[0])} |", f"|{divider}|", *(f"| {' | '.join(row)} |" for row in escaped[1:])]
    )
