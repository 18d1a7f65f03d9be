"""Optuna's trials of a study: read, never changed, and drawn."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from losslab.report.figure import Figure, Table, Trace, escape_tags
from losslab.run import study_name
from losslab.study import Result, StudyFile, tuning_extensions

STATES = {
    TrialState.COMPLETE: ("complete", "circle", "@c0"),
    TrialState.PRUNED: ("pruned", "x", "@c1"),
    TrialState.FAIL: ("failed", "triangle-down", "@c3"),
}
"""Name, symbol and colour of a trial's state."""
COLOUR_STEPS = 5
MOST_LINES = 300
"""Trials in the parallel coordinates; if there are more, only the best."""


class Trials(NamedTuple):
    """A study's trials.

    Args:
        trials: in the order of their numbers.
        importance: parameter -> share, falling; {} if there are too few trials or parameters.
        unreadable: the reason why the trials cannot be read, or "".
    """

    trials: list[FrozenTrial]
    importance: dict[str, float]
    unreadable: str


def read_trials(folder: Path, declared: StudyFile) -> Trials:
    """Read the trials of runs/<study>.

    Args:
        folder: the study's folder.
        declared: its storage is "journal", for the folder's journal.log, or a database URL. If Optuna was told the
            opposite direction, as earlier versions did for a monitored loss, its importance has no meaning.
    """
    journal, storage = folder / "journal.log", declared.storage
    try:
        if storage == "journal" and not journal.is_file():
            raise FileNotFoundError(f"{journal} is missing")
        opened = JournalStorage(JournalFileBackend(str(journal))) if storage == "journal" else storage
        study = optuna.load_study(study_name=study_name(folder), storage=opened)
        trials = study.get_trials(deepcopy=False)
    except Exception as error:  # Optuna's or a database driver's; the rest of the page does not need the trials
        return Trials([], {}, f"{type(error).__name__}: {error}".splitlines()[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meaningful = len(varying(trials)) > 1 and study.direction.name.lower() == declared.direction
            importance = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()) if meaningful else {}
        if importance.pop("seed", None) is not None:  # which is no choice
            total = sum(importance.values()) or 1.0
            importance = {name: share / total for name, share in importance.items()} if len(importance) > 1 else {}
    except (RuntimeError, ValueError):  # too few trials
        importance = {}
    return Trials(trials, importance, "")


def varying(trials: list[FrozenTrial]) -> list[str]:
    """Return the parameters but the seed that have more than one value among the finished trials, in their order."""
    finished = finished_trials(trials)
    names = dict.fromkeys(name for trial in finished for name in trial.params if name != "seed")
    return [name for name in names if len({str(trial.params.get(name)) for trial in finished}) > 1]


def finished_trials(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def lost_results(trials: list[FrozenTrial], results: Sequence[Result]) -> int:
    """Return how many complete trials, of a study whose seeds tune, have no result any more."""
    known = {(result["setting_hash"], result["seed"]) for result in results}
    return sum((t.user_attrs.get("setting_hash"), t.params.get("seed")) not in known for t in finished_trials(trials))


def trainings_left(trials: list[FrozenTrial], study: StudyFile, results: Sequence[Result]) -> int:
    """Return how many trainings a study whose seeds tune still needs, as far as is known; 0 if it is finished.

    Until then a seed chooses among fewer values than it will.
    """
    left = sum(not trial.state.is_finished() for trial in trials) + lost_results(trials, results)
    # A list is extended once no trial is left; a kill may have come before.
    return left or (len(tuning_extensions(study, finished_trials(trials), trials)) if study.lists else 0)


def unfinished_table(trials: list[FrozenTrial]) -> Table:
    """Return one row per trial without a value, with the reason."""
    rows = [[str(t.number), _parameters(t), _explain(t)] for t in trials if t.state != TrialState.COMPLETE]
    return Table(["trial", "parameters", "what happened"], rows)


def _explain(trial: FrozenTrial) -> str:
    """Return the reason why a trial has no value."""
    if trial.state == TrialState.PRUNED:
        last = max(trial.intermediate_values, default=None)
        return "pruned" if last is None else f"pruned after epoch {last}, at {trial.intermediate_values[last]:.4f}"
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("failure") or "its process was lost or stopped; the setting was queued again"
    return trial.state.name.lower()


def trial_figures(read: Trials, declared: StudyFile) -> list[Figure]:
    """Return the figures of the trials: none without a finished trial, one without a second parameter."""
    trials, shares, _ = read
    monitor, maximize = declared.monitor, declared.direction == "maximize"
    by_seed = any("seed" in trial.params for trial in trials)
    figures = [history(trials, monitor, maximize, by_seed)] if finished_trials(trials) else []
    figures += [importance(shares)] if shares else []
    return figures + ([parallel_coordinates(trials, monitor, maximize)] if len(varying(trials)) > 1 else [])


def history(trials: list[FrozenTrial], monitor: str, maximize: bool, of_one_seed: bool = False) -> Figure:
    """Draw the monitored metric of each trial, and the best so far.

    Args:
        trials: one of them finished, or more.
        monitor: the metric's key.
        maximize: whether more of it is better.
        of_one_seed: whether a trial is one setting at one seed. Seeds have other validation images, which a best so far
            would mix.
    """
    traces: list[Trace] = []
    for state, (name, symbol, colour) in STATES.items():
        placed = [(t, value) for t in trials if t.state == state and (value := _value(t)) is not None]
        if placed:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": name,
                    "x": [trial.number for trial, _ in placed], "y": [value for _, value in placed],
                    "marker": {"symbol": symbol, "color": colour, "size": 8},
                    "customdata": [escape_tags(_parameters(trial)) for trial, _ in placed],
                    "hovertemplate": "trial %{x}: %{y:.4f}<br>%{customdata}<extra>%{fullData.name}</extra>",
                }
            )  # fmt: skip
    finished = finished_trials(trials)
    if not of_one_seed:
        best = (np.maximum if maximize else np.minimum).accumulate([trial.value for trial in finished])  # type: ignore[arg-type]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": "best so far", "x": [trial.number for trial in finished],
                "y": best.tolist(), "line": {"color": "@muted", "shape": "hv", "width": 2}, "hoverinfo": "skip",
            }
        )  # fmt: skip
    of = "a setting at one seed, on this seed's validation images" if of_one_seed else "its mean over the seeds"
    values = ["–" if (value := _value(t)) is None else f"{value:.4f}" for t in trials]
    rows = [[str(t.number), t.state.name.lower(), v, _parameters(t)] for t, v in zip(trials, values, strict=True)]
    return Figure(
        "history", "History of the trials",
        f"One mark per trial: {of}. A pruned trial is drawn at the last value that it reported; a "
        "failed trial has no value, and is listed in the table only.",
        traces, {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": escape_tags(monitor)}}},
        Table(["trial", "state", monitor, "parameters"], rows),
    )  # fmt: skip


def importance(shares: dict[str, float]) -> Figure:
    """Draw the importance of each parameter for the objective, from its falling shares."""
    names = list(shares)[::-1]
    return Figure(
        "importance", "Which parameter mattered",
        f"By Optuna's {PedAnovaImportanceEvaluator.__name__}: how much a parameter's values among the best trials "
        "differ from those among all. Shares add up to 1; with few trials they are rough.",
        [{"type": "bar", "orientation": "h", "x": [shares[name] for name in names],
          "y": [escape_tags(_short_name(name)) for name in names],
          "marker": {"color": "@c0"}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}],
        {"xaxis": {"title": {"text": "share"}, "range": [0, 1]}, "yaxis": {"type": "category", "automargin": True}},
        Table(["parameter", "share"], [[name, f"{share:.4f}"] for name, share in shares.items()]),
        panel_height=120 + 40 * len(names),
    )  # fmt: skip


def parallel_coordinates(trials: list[FrozenTrial], monitor: str, maximize: bool) -> Figure:
    """Draw a line per finished trial through its parameters to its objective; better fifths are thicker, and on top."""
    finished, names = finished_trials(trials), varying(trials)
    values = np.array([trial.value for trial in finished], dtype=float)  # (trials,)
    rank = np.argsort(np.argsort(values if maximize else -values, kind="stable"), kind="stable")
    positions: list[list[float | None]] = []
    ticks: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        column, ends = _positions(finished, name)
        positions.append(column)
        ticks += [_tick(at, height, text) for height, text in ends]
    spread = float(np.ptp(values)) or 1.0
    positions.append(((values - values.min()) / spread).tolist())
    ticks += [_tick(len(names), 0, f"{values.min():.4f}"), _tick(len(names), 1, f"{values.max():.4f}")]
    order = np.argsort(rank)[-MOST_LINES:]
    traces: list[Trace] = []
    for index in order.tolist():
        fifth = int(rank[index] * COLOUR_STEPS / len(finished))
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": list(range(len(names) + 1)), "showlegend": False,
                "y": [column[index] for column in positions], "connectgaps": False,
                "line": {"color": f"@step{fifth}", "width": 1 + fifth / 2},
                "marker": {"size": 4, "color": f"@step{fifth}"},
                "name": f"trial {finished[index].number}: {values[index]:.4f}",
                "customdata": [escape_tags(_parameters(finished[index]))] * (len(names) + 1),
                "hovertemplate": "%{fullData.name}<br>%{customdata}<extra></extra>",
            }
        )  # fmt: skip
    titles = [*map(_short_name, names), monitor]
    rows = [[str(t.number), f"{t.value:.4f}", *(_format(t.params.get(name)) for name in names)] for t in finished]
    return Figure(
        "parallel", "Parallel coordinates",
        "Each line is a finished trial, from parameter to parameter to its objective. Darker and thicker lines are "
        "better; a gap is a parameter that the trial's arm does not have.",
        traces,
        {"xaxis": {"tickvals": list(range(len(titles))), "ticktext": [escape_tags(t) for t in titles], "showgrid": True,
                   "range": [-0.3, len(titles) - 0.5], "zeroline": False},
         "yaxis": {"visible": False, "range": [-0.08, 1.08]}, "annotations": ticks, "hovermode": "closest"},
        Table(["trial", monitor, *names], rows),
    )  # fmt: skip


def _tick(at: int, height: float, text: str) -> dict[str, Any]:
    return {
        "x": at, "y": height, "text": escape_tags(text), "showarrow": False, "font": {"size": 11}, "xanchor": "left",
        "xshift": 5, "bgcolor": "@paper", "opacity": 0.85,
    }  # fmt: skip


def _positions(finished: list[FrozenTrial], name: str) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return each trial's height in [0, 1] on a parameter's axis, and height and text of the axis' ticks."""
    distribution = next(trial.distributions[name] for trial in finished if name in trial.distributions)
    given = [trial.params.get(name) for trial in finished]
    if isinstance(distribution, FloatDistribution | IntDistribution):
        scale = np.log if distribution.log else float
        known = [value for value in given if value is not None]
        low, high = min(known), max(known)
        width = float(scale(high) - scale(low)) or 1.0
        heights = [None if value is None else float(scale(value) - scale(low)) / width for value in given]
        return heights, [(0.0, _format(low)), (1.0, _format(high))]
    words = sorted({_format(value) for value in given if value is not None})
    step = 1 / max(1, len(words) - 1)
    heights = [None if value is None else words.index(_format(value)) * step for value in given]
    return heights, [(index * step, word) for index, word in enumerate(words)]


def _value(trial: FrozenTrial) -> float | None:
    """Return a trial's value; the last value reported by a pruned trial; else None."""
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return trial.intermediate_values[max(trial.intermediate_values)]
    return trial.value if trial.state == TrialState.COMPLETE else None


def _parameters(trial: FrozenTrial) -> str:
    return ", ".join(f"{_short_name(name)}={_format(value)}" for name, value in trial.params.items())


def _short_name(name: str) -> str:
    """Return "arm: lr" for "arm: model.init_args.optimizer.lr"."""
    arm, separator, path = name.rpartition(": ")
    return f"{arm}{separator}{path.rsplit('.', 1)[-1]}"


def _format(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
