"""The contents of a study's page, and the rendering of pages as HTML files that need no other file."""

import base64
import dataclasses
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from losslab import __version__
from losslab.losses import FocalLoss
from losslab.report.curves import learning_curves, loss_curves
from losslab.report.figure import Figure, script_json
from losslab.report.precision_recall import precision_recall_by_class, precision_recall_plane, varied_number
from losslab.report.predictions import (
    calibration,
    confusion,
    read_gallery,
    share_images,
    shown_predictions,
    shown_test_predictions,
)
from losslab.report.records import focal_gamma, provenance_table, read_config, reproduce_commands, validation_text
from losslab.report.summary import Confirmation, Summary, counting_confirmation, metric_title, read_confirmations
from losslab.report.tables import choices_table, class_differences, means_table, verdict_table
from losslab.report.trials import read_trials, trial_figures, unfinished_table
from losslab.study import Result, SettingResults

FILES = files("losslab.report") / "page_files"
MOST_SHOWN = 8
"""Settings whose predictions and epochs are shown; a search has hundreds."""
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
NO_PREDICTIONS = "The runs' predictions are not there, or are of different images."


def page_content(folder: Path, summary: Summary, results: list[Result]) -> dict[str, Any]:
    """Gather the contents of a study's page, the fields of its template.

    Args:
        folder: runs/<study>.
        summary: of the results.
        results: one or more.
    """
    study = summary.study
    settings = _select_settings(summary)
    counting = counting_confirmation(folder)
    share, shown, tested = share_images(folder, settings), shown_predictions(folder, settings), summary
    if counting is not None and not share:
        place, confirmation = counting
        of_test = shown_test_predictions(place, _select_settings(confirmation.summary))
        shown, tested = (of_test, confirmation.summary) if of_test.predictions else (shown, summary)
    predictions = shown.predictions if (classes := tested.settings[0].classes) else {}
    compared = tested.baseline.label if tested.baseline else None
    gammas = {s.label: focal_gamma(read_config(shown.folder, s)) for s in shown.settings}
    images, no_gallery = read_gallery(shown, classes) if predictions and shown.same_images else ({}, NO_PREDICTIONS)
    trials = read_trials(folder, study)
    listed = summary.ranked[:MOST_LISTED] if len(summary.settings) > MOST_LISTED else summary.settings
    answer = summary.answer
    if counting is not None:  # its answer counts more than the search's
        _, confirmed = counting
        of = "fresh seeds and " if _has_fresh_seeds(confirmed, summary) else ""
        answer = [f"Confirmed on {of}the test images:", *confirmed.summary.answer, confirmed.choice_text]
    # Without a varied number each setting has a colour, of which there are few.
    placed = [_without_tuned(summary, s) for s in summary.settings]
    placed = placed if varied_number(placed) else [_without_tuned(summary, s) for s in settings]
    return {
        "name": summary.name,
        "heading": summary.heading,
        "answer": answer,
        "facts": _facts(summary, results),
        "described": _described(summary, share),
        "choices": choices_table(summary),
        "means": means_table(summary, listed, ", %"),
        "only_best": len(listed) < len(summary.settings),
        "all_means": means_table(summary, summary.tried, ", %") if len(listed) < len(summary.tried) else None,
        "confirmations": [_confirmation_content(each, summary) for each in read_confirmations(folder)],
        "verdicts": verdict_table(summary.family),
        "like_training": bool(validation_text(folder)),
        "by_class": class_differences(summary),
        "precision_recall": [precision_recall_by_class(placed), precision_recall_plane(placed)],
        "loss": _loss({g for s in settings if (g := focal_gamma(read_config(folder, s))) is not None}),
        "selection": _selection(summary, len(settings)),
        "shown_images": shown.text if predictions else "",
        "confusion": confusion(predictions, classes, compared) if predictions and shown.same_images else None,
        "gallery": script_json(images) if images else "",
        "no_gallery": no_gallery,
        "calibration": calibration(predictions, gammas) if predictions else None,
        "learning": learning_curves(folder, settings, share),
        "trials": trial_figures(trials, study) if summary.comparable else [],
        "unreadable": trials.unreadable,
        "unfinished": unfinished_table(trials.trials),
        "provenance": provenance_table(folder, results),
        "commands": reproduce_commands(folder),
        "chosen": counting[1].summary.chosen if counting else summary.chosen,
        "no_predictions": NO_PREDICTIONS,
    }


def _confirmation_content(confirmation: Confirmation, search: Summary) -> dict[str, Any]:
    """Return the page's part on one confirmation; fields named as in `page_content` mean the same."""
    summary = confirmation.summary
    return {
        "name": summary.name,
        "settings": len(summary.settings),
        "seeds": f"{min(summary.study.seeds)} to {max(summary.study.seeds)}",
        "fresh": _has_fresh_seeds(confirmation, search),
        "tunes": summary.study.tunes_each_seed,
        "outcome": f"{confirmation.status_text} {confirmation.choice_text}",
        "heading": summary.heading,
        "means": means_table(summary, summary.settings, ", %"),
        "choices": choices_table(summary) if _has_fresh_seeds(confirmation, search) else None,
        "verdicts": verdict_table(summary.family),
    }


def _without_tuned(summary: Summary, setting: SettingResults) -> SettingResults:
    """Return a setting without its tuned values, which are no axis of a figure."""
    values = summary.study.candidate(setting)
    return dataclasses.replace(setting, varied={path: value for path, value in values.items() if path != "arm"})


def _has_fresh_seeds(confirmation: Confirmation, search: Summary) -> bool:
    """Return whether the confirmation trained on other seeds than the search."""
    return not {*confirmation.summary.study.seeds} <= {*search.study.seeds}


def _select_settings(summary: Summary) -> list[SettingResults]:
    """Return all settings or, of many, the baseline and the best, in the study's order."""
    settings = summary.complete or summary.settings
    if len(settings) <= MOST_SHOWN:
        return settings
    first = [summary.baseline] if summary.baseline is not None else []
    kept = [*first, *(s for s in summary.ranked if s is not summary.baseline)][:MOST_SHOWN]
    return [s for s in settings if any(s is k for k in kept)]


def _selection(summary: Summary, selected: int) -> str:
    if selected == len(summary.settings):
        return ""
    best = f"{'the baseline and ' if summary.baseline else ''}the best by {metric_title(summary.study.monitor)}"
    return f"Sections 6 to 9 show {selected} of {len(summary.settings)} settings: {best}."


def _facts(summary: Summary, results: list[Result]) -> list[tuple[str, str]]:
    facts = [
        ("settings", str(len(summary.settings if summary.study.tunes_each_seed else summary.tried))),
        ("seeds for each", str(len(summary.study.seeds))),
        ("trainings", str(len(results))),
        ("images", " and ".join(sorted({result["data_name"] for result in results}))),
    ]
    family = summary.family
    return [*facts, ("differences shown", f"{len(family.shown)} of {family.size}")] if family else facts


def _described(summary: Summary, share_images: bool) -> str:
    study = summary.study
    settings = summary.settings if study.tunes_each_seed else summary.tried
    varied = dict.fromkeys(path for setting in settings for path in setting.varied)
    arms = dict.fromkeys(setting.arm for setting in settings)
    parts = [f"{len(settings)} settings"]
    parts += [f"of {len(arms)} arms ({', '.join(arms)})"] if len(arms) > 1 else []
    parts += [f"varying {', '.join(varied)}"] if varied else []
    seeds = ", ".join(map(str, study.seeds))
    if study.tunes_each_seed:
        paths = dict.fromkeys([*study.tune, *(path for own in study.arm_tune.values() for path in own)])
        lists = [f"{path} ({', '.join(f'{v:g}' for v in values)})" for path, values in study.lists.items()]
        drawn = f"values of {', '.join(paths)} that are drawn afresh for each seed"
        tried = f"each value of {lists[0]}, and further ones while the best is at an end" if lists else drawn
        trained = (
            f". Each of the seeds {seeds} tunes each setting for itself: it trains it at {tried}; what is best on its "
            "own validation images is the setting's result at this seed."
        )
    else:
        trained = f", each trained once with each of the seeds {seeds}." + "".join(
            f" {path} was tuned: of settings that differ in it alone, only the best on validation is shown and "
            "compared."
            for path in study.tune
        )
    own = "" if share_images else " Each seed has a split of its own, so intervals contain the choice of the split."
    return (
        f"{' '.join(parts)}{trained} The same seed means the same split, the same initial weights and the same order "
        f"of images for every setting.{own}"
    )


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
