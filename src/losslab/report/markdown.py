"""The summary as Markdown, for a README or a pull request."""

from losslab.report.settings import percent
from losslab.report.study_summary import Summary, interval, name_of
from losslab.report.terminal_summary import headline_keys


def markdown(summary: Summary) -> str:
    """The answer, the table of means and the verdicts."""
    keys = headline_keys(summary.settings)
    lines = [f"# {escape(summary.name)}", "", *(escape(sentence) for sentence in summary.answer), ""]
    lines += [f"{escape(summary.heading)}, in percent:", ""]
    lines += _table(
        ["setting", "n", *map(name_of, keys)],
        [[s.label, str(len(s.seeds)), *(percent(*s.mean_sd(key)) for key in keys)] for s in summary.settings],
    )
    if summary.family is not None and summary.family.verdicts:
        family = summary.family
        lines += ["", f"Minus {escape(family.baseline)}, in points; {escape(family.method)}", ""]
        lines += _table(
            ["setting", "metric", "difference", "verdict", "to be shown"],
            [[v.setting, name_of(v.metric), interval(v), v.word, v.hint] for v in family.verdicts],
        )
        lines += ["", "Conditional on this split and these evaluation images."]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """A name that shall be no markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#!" else c for c in text.replace("\n", " "))


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    escaped = [[escape(cell) for cell in row] for row in [columns, *rows]]
    divider = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return [f"| {' | '.join(escaped[0])} |", f"|{divider}|", *(f"| {' | '.join(row)} |" for row in escaped[1:])]
