"""What a study's page says of its confirmations: other seeds and other images than the search's, and kept apart."""

from dataclasses import dataclass

from losslab.report.confirmations import Confirmation
from losslab.report.figure import Table
from losslab.report.headline import headline
from losslab.report.study_summary import name_of
from losslab.report.verdict_table import VerdictRow, verdict_rows


@dataclass
class ConfirmationContent:
    """Fields are the template's; those of the verdicts are called as the page's own."""

    name: str
    answer: list[str]
    described: str
    heading: str
    headline: Table
    baseline: str
    family_size: int
    method: str
    verdict_columns: list[str]
    verdicts: list[VerdictRow]


def confirmation_content(confirmation: Confirmation) -> ConfirmationContent:
    """What the page says of one confirmation."""
    summary, family = confirmation.summary, confirmation.summary.family
    return ConfirmationContent(
        name=summary.name,
        answer=summary.answer,
        described=_settings_described(confirmation),
        heading=summary.heading,
        headline=headline(summary, summary.settings),
        baseline=family.baseline if family else "",
        family_size=family.size if family else 0,
        method=family.method if family else "",
        verdict_columns=[name_of(key) for key in family.metrics] if family else [],
        verdicts=verdict_rows(family) if family else [],
    )


def _settings_described(confirmation: Confirmation) -> str:
    summary = confirmation.summary
    seeds = summary.declared.seeds
    return (
        f"{len(summary.settings)} settings that the search chose on validation, trained anew with each of the fresh "
        f"seeds {min(seeds)} to {max(seeds)}, which took part in no choice. {confirmation.status_told}"
    )
