"""The contents of a study's page, and the rendering of pages as HTML files that need no other file."""

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from losslab import __version__
from losslab.losses import FocalLoss
from losslab.report.curves import learning_curves, loss_curves
from losslab.report.figure import Figure, script_json
from losslab.report.precision_recall import precision_recall_by_class, precision_recall_plane, varied_number
from losslab.report.predictions import (
    MOST_CLASSES,
    calibration,
    confusion,
    read_gallery,
    share_images,
    shown_predictions,
    shown_test_predictions,
)
from losslab.report.records import focal_gamma, provenance_table, read_config, reproduce_commands, validation_text
from losslab.report.summary import Confirmation, Summary, counting_confirmation, metric_title
from losslab.report.tables import choices_table, class_differences, means_table, verdict_table
from losslab.report.trials import read_trials, trial_figures, unfinished_table
from losslab.study import Result, SettingResults

FILES = files("losslab.report") / "page_files"
MOST_SHOWN = 8
"""Settings whose predictions and epochs are shown; a search has hundreds."""
MOST_COMPARED = 200
"""Settings in the tables of verdicts and of classes, and in the figures of precision and recall."""
MOST_LISTED = 16
"""Settings in the first table; if there are more, only the best."""
CONTENTS = (
    ("run", "What was run"), ("confirmation", "Confirmation"), ("verdicts", "Verdicts of the search"),
    ("precision", "Precision and recall"),
    ("loss", "Loss and gradient"), ("confusion", "Confusions"), ("mistakes", "Misclassified images"),
    ("calibration", "Calibration"), ("learning", "Learning curves"), ("trials", "Trials"),
    ("provenance", "Provenance"),
)  # fmt: skip
"""Id and title of each section."""
GAMMAS = [0.25 * step for step in range(21)]
"""Values of the gamma slider, besides the study's own."""


def page_content(
    folder: Path, summary: Summary, results: list[Result], confirmations: Sequence[Confirmation]
) -> dict[str, Any]:
    """Gather the contents of a study's page, the fields of its template.

    Args:
        folder: runs/<study>.
        summary: of the results.
        results: one or more.
        confirmations: the study's.
    """
    study = summary.study
    settings = _select_settings(summary)
    counting = counting_confirmation(confirmations)
    share, shown = share_images(folder, settings), shown_predictions(folder, settings)
    place, pictured, of = folder, settings, summary
    if counting is not None and not share:
        confirmed = _select_settings(counting.summary)
        if (of_test := shown_test_predictions(counting.folder, confirmed)).predictions:
            shown, place, pictured, of = of_test, counting.folder, confirmed, counting.summary
    predictions = shown.predictions if (classes := of.settings[0].classes) else {}
    compared = of.baseline.label if of.baseline else None
    gammas = {setting.label: focal_gamma(read_config(place, setting)) for setting in pictured}
    same_images = bool(predictions) and shown.same_images
    images, no_gallery = read_gallery(shown, classes) if same_images else ({}, "")
    trials = read_trials(folder, study)
    listed = summary.ranked[:MOST_LISTED] if len(summary.settings) > MOST_LISTED else summary.settings
    # Without a varied number each setting has a colour, of which there are few.
    tabled = _select_settings(summary, MOST_COMPARED)
    many = len(summary.settings) > MOST_COMPARED
    classes_shown = _select_classes(tabled)
    placed = [_without_tuned(summary, s, classes_shown) for s in (tabled if many else summary.settings)]
    placed = placed if varied_number(placed) else [_without_tuned(summary, s, classes_shown) for s in settings]
    return {
        "summary": summary,
        "results": results,
        "counting": None if counting is None else _confirmation_content(counting, summary),
        "varied": dict.fromkeys(path for setting in summary.candidates for path in setting.varied),
        "drawn": dict.fromkeys([*study.tune, *(path for own in study.arm_tune.values() for path in own)]),
        "share_images": share,
        "choices": choices_table(summary),
        "means": means_table(summary, listed, ", %"),
        "only_best": len(listed) < len(summary.settings),
        "all_means": means_table(summary, summary.tried, ", %") if len(listed) < len(summary.tried) else None,
        "confirmations": [_confirmation_content(each, summary) for each in confirmations],
        "tabled": len(tabled) if many else len(summary.settings),
        "verdicts": verdict_table(summary.family, {setting.label for setting in tabled}),
        "like_training": bool(validation_text(folder)),
        "by_class": class_differences(summary, tabled, classes_shown),
        "classes_shown": len(classes_shown),
        "precision_recall": [precision_recall_by_class(placed), precision_recall_plane(placed)],
        "loss": _loss({g for s in settings if (g := focal_gamma(read_config(folder, s))) is not None}),
        "selected": len(settings),
        "monitor": metric_title(study.monitor),
        "shown_images": shown.text if predictions else "",
        "confusion": confusion(predictions, classes, compared) if same_images else None,
        "gallery": script_json(images) if images else "",
        "no_gallery": no_gallery,
        "calibration": calibration(predictions, gammas) if predictions else None,
        "learning": learning_curves(folder, settings, share),
        "trials": trial_figures(trials, study) if summary.comparable else [],
        "unreadable": trials.unreadable,
        "unfinished": unfinished_table(trials.trials),
        "provenance": provenance_table(folder, results),
        "commands": reproduce_commands(folder),
    }


def _confirmation_content(confirmation: Confirmation, search: Summary) -> dict[str, Any]:
    """Return the page's part on one confirmation; fields named as in `page_content` mean the same."""
    summary = confirmation.summary
    fresh = not {*summary.study.seeds} <= {*search.study.seeds}
    return {
        "confirmation": confirmation,
        "summary": summary,
        "fresh": fresh,
        "means": means_table(summary, summary.settings, ", %"),
        "choices": choices_table(summary) if fresh else None,
        "verdicts": verdict_table(summary.family),
    }


def _without_tuned(summary: Summary, setting: SettingResults, classes: list[str]) -> SettingResults:
    """Return a setting with these classes only, and without its tuned values, which are no axis of a figure."""
    values = summary.study.candidate(setting)
    varied = {path: value for path, value in values.items() if path != "arm"}
    return dataclasses.replace(setting, varied=varied, classes=classes)


def _select_classes(settings: Sequence[SettingResults]) -> list[str]:
    """Return all classes or, of many, those whose mean recall differs most between the settings, in their order."""
    classes = settings[0].classes
    if len(classes) <= MOST_CLASSES:
        return classes
    means = [[setting.mean_sd(f"val/recall/{name}")[0] for name in classes] for setting in settings]
    widest = np.argsort(-np.ptp(means, axis=0), kind="stable")[:MOST_CLASSES]
    return [classes[index] for index in sorted(widest.tolist())]


def _select_settings(summary: Summary, most: int = MOST_SHOWN) -> list[SettingResults]:
    """Return all settings or, of more than `most`, the baseline and the best, in the study's order."""
    settings = summary.complete or summary.settings
    if len(settings) <= most:
        return settings
    ranked = sorted(summary.ranked, key=lambda setting: setting is not summary.baseline)[:most]
    kept = {id(setting) for setting in ranked}
    return [setting for setting in settings if id(setting) in kept]


def _loss(used: set[float]) -> Figure | None:
    if not used:
        return None
    gammas = sorted({*GAMMAS, *used})
    labels, losses = [f"{gamma:g}" for gamma in gammas], [FocalLoss(gamma) for gamma in gammas]
    return loss_curves("Focal loss against p_t", labels, losses, "γ")


def render(kind: str, **content: Any) -> str:
    """Return a page as HTML; the same contents give the same bytes.

    Names come from configurations, so everything but the page's own files is escaped, and the page's
    Content-Security-Policy allows only the two scripts whose hashes it holds.

    Args:
        kind: "page" for a study, "comparison", or "figure" for one figure and the command that made it.
        content: the template's variables: `page` (of a study or a comparison), or `figure` and `command`.
    """
    plotly, script = get_plotlyjs(), (FILES / "page.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("losslab.report", "page_files"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(f"{kind}.html.jinja").render(
        content, contents=CONTENTS, version=__version__, css=(FILES / "page.css").read_text(),
        plotly=plotly, script=script, script_hashes=" ".join(map(_hash, (plotly, script))),
    )  # fmt: skip


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
