"""The report's page: one HTML file that needs nothing else."""

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from losslab import __version__
from losslab.errors import UserError
from losslab.losses import FocalLoss
from losslab.report.compare import ComparisonContent
from losslab.report.curves import learning_curves, loss_curves
from losslab.report.figure import Figure, Table, script_json
from losslab.report.precision_recall import (
    precision_recall_by_class,
    precision_recall_plane,
    varied_number,
)
from losslab.report.predictions import calibration, confusion, gallery
from losslab.report.records import (
    Predictions,
    focal_gamma,
    provenance_table,
    read_config,
    reproduce_commands,
    setting_predictions,
    validation_images,
)
from losslab.report.summary import Confirmation, Summary, metric_title, read_confirmations
from losslab.report.tables import VerdictRow, class_differences, headline, verdict_rows
from losslab.report.trials import read_trials, trial_figures, unfinished
from losslab.study import Result, SettingResults


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
        verdict_columns=[metric_title(key) for key in family.metrics] if family else [],
        verdicts=verdict_rows(family) if family else [],
    )


def _settings_described(confirmation: Confirmation) -> str:
    summary = confirmation.summary
    seeds = summary.study.seeds
    return (
        f"{len(summary.settings)} settings that the search chose on validation, trained anew with each of the fresh "
        f"seeds {min(seeds)} to {max(seeds)}, which took part in no choice. {confirmation.status_told}"
    )


MOST_SHOWN = 8
"""Settings whose predictions and epochs are shown; a search has hundreds."""
MOST_LISTED = 16
"""Settings in the first table; of more, the best."""
CONTENTS = (
    ("run", "What was run"), ("confirmation", "Confirmation"), ("verdicts", "Verdicts of the search"),
    ("precision", "Precision and recall"),
    ("loss", "Loss and gradient"), ("confusion", "Confusions"), ("mistakes", "Misclassified images"),
    ("calibration", "Calibration"), ("learning", "Learning curves"), ("trials", "Trials"),
    ("provenance", "Provenance"),
)  # fmt: skip
GAMMAS = [0.25 * step for step in range(21)]
"""Where the slider stops, besides the study's own values."""


@dataclass
class PageContent:
    """Fields are the template's."""

    name: str
    kind: str
    question: str
    heading: str
    answer: list[str]
    facts: list[tuple[str, str]]
    described: str
    headline: Table
    headline_all: Table | None
    confirmations: list[ConfirmationContent]
    baseline: str
    family_size: int
    method: str
    verdict_columns: list[str]
    verdicts: list[VerdictRow]
    by_class: Table
    precision_recall: list[Figure]
    loss: Figure | None
    shown_note: str
    confusion: Figure | None
    gallery: str
    no_gallery: str
    calibration: Figure | None
    learning: Figure | None
    trials: list[Figure]
    trials_note: str
    unfinished: Table
    provenance: Table
    commands: list[str]
    no_verdicts: str = "No baseline was declared, or it is not finished: nothing is compared."
    no_predictions: str = "The runs' predictions are not there, or are of different images."
    no_loss: str = "No setting of this study uses focal loss."
    version: str = __version__

    @property
    def confirm_command(self) -> str:
        """What would confirm the study."""
        return f"losslab confirm runs/{self.name} --top 3 --seeds 10"

    @property
    def contents(self) -> list[tuple[int, str, str]]:
        """Number, id and title of each section."""
        return [(number, *entry) for number, entry in enumerate(CONTENTS, start=1)]


def page_content(folder: Path, summary: Summary, results: list[Result]) -> PageContent:
    """Gather the contents from runs/<study>.

    Args:
        folder: the study's.
        summary: of its results.
        results: one or more.
    """
    shown = shown_settings(summary)
    classes = summary.settings[0].classes
    predicted = [(s, p) for s in shown if classes and (p := setting_predictions(folder, s)) is not None]
    labels, predictions = [s.label for s, _ in predicted], [p for _, p in predicted]
    gammas = {setting.label: focal_gamma(read_config(folder, setting)) for setting in shown}
    same_images = bool(predicted) and all(np.array_equal(p.labels, predictions[0].labels) for p in predictions)
    images, no_gallery = _gallery(folder, predicted, classes, same_images)
    trials = read_trials(folder, summary.study.storage)
    family, baseline = summary.family, summary.baseline
    confirmations = [confirmation_content(confirmation) for confirmation in read_confirmations(folder)]
    maximize = summary.study.direction == "maximize"
    few = len(shown) < len(summary.settings)
    many = len(summary.settings) > MOST_LISTED
    confused = confusion(labels, predictions, classes, baseline.label if baseline else None) if same_images else None
    return PageContent(
        name=summary.name,
        kind="study",
        question="What does the loss function do to each class's precision and recall?",
        heading=summary.heading,
        answer=_answer(summary, confirmations),
        facts=_facts(summary, results),
        described=_described(summary),
        headline=headline(summary, _ranked(summary)[:MOST_LISTED] if many else summary.settings),
        headline_all=headline(summary, summary.tried) if many or len(summary.tried) > len(summary.settings) else None,
        confirmations=confirmations,
        baseline=baseline.label if baseline else "",
        family_size=family.size if family else 0,
        method=family.method if family else "",
        verdict_columns=[metric_title(key) for key in family.metrics] if family else [],
        verdicts=verdict_rows(family) if family else [],
        by_class=class_differences(summary),
        precision_recall=_precision_recall(summary),
        loss=_loss(gammas),
        shown_note=f"Sections 6 to 9 show {len(shown)} of {len(summary.settings)} settings: "
        f"{'the baseline and ' if baseline else ''}the best by {metric_title(summary.study.monitor)}." if few else "",
        confusion=confused,
        gallery=images,
        no_gallery=no_gallery,
        calibration=calibration(labels, predictions, [gammas[label] for label in labels]) if predicted else None,
        learning=learning_curves(folder, shown),
        trials=trial_figures(trials, summary.study.monitor, maximize),
        trials_note=f"Optuna's record of the trials cannot be read: {trials.unreadable}" if trials.unreadable else "",
        unfinished=unfinished(trials.trials),
        provenance=provenance_table(folder, results),
        commands=reproduce_commands(folder),
    )  # fmt: skip


def _answer(summary: Summary, confirmations: list[ConfirmationContent]) -> list[str]:
    """What the test images said, if they were asked; else what the search says."""
    if not confirmations:
        return summary.answer
    return ["Confirmed on fresh seeds and the test images:", *confirmations[-1].answer]


def shown_settings(summary: Summary) -> list[SettingResults]:
    """All settings or, of many, the baseline and the best, in the study's order."""
    settings = summary.complete or summary.settings
    if len(settings) <= MOST_SHOWN:
        return settings
    first = [summary.baseline] if summary.baseline is not None else []
    kept = [*first, *(s for s in _ranked(summary) if s is not summary.baseline)][:MOST_SHOWN]
    return [s for s in settings if any(s is k for k in kept)]


def _ranked(summary: Summary) -> list[SettingResults]:
    """The best first; of settings that have all their seeds, if there are any."""
    settings = summary.complete or summary.settings
    return sorted(settings, key=lambda s: -summary.study.sign * s.mean_sd(summary.study.monitor)[0])


def _gallery(
    folder: Path, predicted: list[tuple[SettingResults, Predictions]], classes: list[str], same_images: bool
) -> tuple[str, str]:
    if not same_images:
        return "", PageContent.no_predictions
    labels, predictions = [s.label for s, _ in predicted], [p for _, p in predicted]
    try:
        images = validation_images(folder / predicted[0][0].runs[0])
    except (UserError, OSError, IndexError) as error:
        return "", f"The images are not shown: {error}"
    if len(images) != len(predictions[0].labels):
        return "", "The images are not shown: the predictions are of another number of images."
    content = gallery(labels, predictions, images)
    return script_json(content | {"classes": classes, "order": labels, "start": labels[-1]}), ""


def _facts(summary: Summary, results: list[Result]) -> list[tuple[str, str]]:
    facts = [
        ("settings", str(len(summary.tried))),
        ("seeds for each", str(len(summary.study.seeds))),
        ("trainings", str(len(results))),
        ("images", " and ".join(sorted({result["data_name"] for result in results}))),
    ]
    if summary.family is not None:
        shown = len(summary.family.shown)
        facts.append(("differences shown", f"{shown} of {summary.family.size}"))
    return facts


def _described(summary: Summary) -> str:
    varied = list(dict.fromkeys(path for setting in summary.tried for path in setting.varied))
    arms = list(dict.fromkeys(setting.arm for setting in summary.tried))
    parts = [f"{len(summary.tried)} settings"]
    if len(arms) > 1:
        parts.append(f"of {len(arms)} arms ({', '.join(arms)})")
    if varied:
        parts.append(f"varying {', '.join(varied)}")
    tuned = "".join(
        f"{path} was tuned: of settings that differ in it alone the best on validation is shown and compared. "
        for path in summary.study.tune
    )
    return (
        f"{' '.join(parts)}, each trained once with each of the seeds {', '.join(map(str, summary.study.seeds))}. "
        f"{tuned}The same seed means the same split, the same initial weights and the same order of images for every "
        "setting."
    )


def _precision_recall(summary: Summary) -> list[Figure]:
    # Those of a search are points; settings that no number orders have a colour each, of which there are few.
    settings = summary.settings if varied_number(summary.settings) else shown_settings(summary)
    return [precision_recall_by_class(settings), precision_recall_plane(settings)]


def _loss(gammas: dict[str, float | None]) -> Figure | None:
    used = sorted({gamma for gamma in gammas.values() if gamma is not None})
    if not used:
        return None
    values = sorted({*GAMMAS, *used})
    figure = loss_curves("FocalLoss", [f"{value:g}" for value in values], [FocalLoss(value) for value in values], "γ")
    figure.title = "Focal loss against p_t"
    return figure


FILES = files("losslab.report") / "page_files"


def render(page: PageContent) -> str:
    """The page of these contents: the same contents, the same bytes."""
    return _filled("page.html.jinja", page=page)


def render_comparison(page: ComparisonContent) -> str:
    """The page of a comparison."""
    return _filled("comparison.html.jinja", page=page)


def render_figure(figure: Figure, command: str) -> str:
    """A page of one figure, with the command that made it."""
    return _filled("figure.html.jinja", figure=figure, command=command)


def _filled(template: str, **content: Any) -> str:
    """Names come from configurations: everything but the page's own files is escaped.

    No script runs but the two whose hashes are in the page's Content-Security-Policy.
    """
    plotly, script = get_plotlyjs(), (FILES / "page.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("losslab.report", "page_files"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(
        content,
        css=(FILES / "page.css").read_text(),
        plotly=plotly,
        script=script,
        script_hashes=" ".join(map(_hash, (plotly, script))),
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
