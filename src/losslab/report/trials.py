"""A study's trials as Optuna's storage holds them: read, never changed."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from losslab.report.figure import Figure, Table, Trace, plain
from losslab.run import study_name


class Trials(NamedTuple):
    """What is known of a study's trials.

    Args:
        trials: in the order in which they were asked for.
        importance: parameter -> share, falling; {} where it cannot be told.
        evaluator: what measured it.
        unreadable: why there are no trials, or "".
    """

    trials: list[FrozenTrial]
    importance: dict[str, float]
    evaluator: str
    unreadable: str


def read_trials(folder: Path, storage: str) -> Trials:
    """Read the trials of runs/<study> from its journal, or from the database that it names."""
    journal = folder / "journal.log"
    evaluator = PedAnovaImportanceEvaluator()
    name = type(evaluator).__name__
    try:
        if storage == "journal" and not journal.is_file():
            raise FileNotFoundError(f"{journal} is missing")
        opened = JournalStorage(JournalFileBackend(str(journal))) if storage == "journal" else storage
        study = optuna.load_study(study_name=study_name(folder), storage=opened)
        trials = study.get_trials(deepcopy=False)
    except Exception as error:  # of Optuna or of a database's driver: the rest of the page does not need it
        return Trials([], {}, name, f"{type(error).__name__}: {error}".splitlines()[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importance = get_param_importances(study, evaluator=evaluator) if len(varying(trials)) > 1 else {}
    except (RuntimeError, ValueError):  # too few trials
        importance = {}
    return Trials(trials, importance, name, "")


def varying(trials: list[FrozenTrial]) -> list[str]:
    """The parameters that took more than one value among the finished trials, in their order."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    names = dict.fromkeys(name for trial in finished for name in trial.params)
    return [name for name in names if len({str(trial.params.get(name)) for trial in finished}) > 1]


def reason(trial: FrozenTrial) -> str:
    """Why a trial has no value; "" for one that has."""
    if trial.state == TrialState.PRUNED:
        last = max(trial.intermediate_values, default=None)
        return "pruned" if last is None else f"pruned after epoch {last}, at {trial.intermediate_values[last]:.4f}"
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("failure") or "its process was lost or stopped; the setting was queued again"
    return "" if trial.state == TrialState.COMPLETE else trial.state.name.lower()


STATES = {
    TrialState.COMPLETE: ("complete", "circle", "@c0"),
    TrialState.PRUNED: ("pruned", "x", "@c1"),
    TrialState.FAIL: ("failed", "triangle-down", "@c3"),
}
COLOUR_STEPS = 5
MOST_LINES = 300


def trial_figures(read: Trials, monitor: str, maximize: bool) -> list[Figure]:
    """The figures that the trials allow: none without a finished trial, two without a second parameter."""
    finished = [trial for trial in read.trials if trial.state == TrialState.COMPLETE]
    if not finished:
        return []
    figures = [history(read.trials, monitor, maximize)]
    if read.importance:
        figures.append(importance(read))
    if len(varying(read.trials)) > 1:
        figures.append(parallel_coordinates(finished, varying(read.trials), monitor, maximize))
    return figures


def unfinished(trials: list[FrozenTrial]) -> Table:
    """Each trial without a value, and why."""
    rows = [[str(trial.number), _parameters(trial), reason(trial)] for trial in trials if reason(trial)]
    return Table(["trial", "parameters", "what happened"], rows)


def history(trials: list[FrozenTrial], monitor: str, maximize: bool) -> Figure:
    """The monitored metric of each trial, and the best so far."""
    traces: list[Trace] = []
    for state, (name, symbol, colour) in STATES.items():
        chosen = [(trial, _value(trial)) for trial in trials if trial.state == state]
        placed = [(trial, value) for trial, value in chosen if value is not None]
        if placed:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": name,
                    "x": [trial.number for trial, _ in placed], "y": [value for _, value in placed],
                    "marker": {"symbol": symbol, "color": colour, "size": 8},
                    "customdata": [plain(_parameters(trial)) for trial, _ in placed],
                    "hovertemplate": "trial %{x}: %{y:.4f}<br>%{customdata}<extra>%{fullData.name}</extra>",
                }
            )  # fmt: skip
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = (np.maximum if maximize else np.minimum).accumulate([trial.value for trial in finished])  # type: ignore[arg-type]
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": [trial.number for trial in finished],
            "y": best.tolist(), "line": {"color": "@muted", "shape": "hv", "width": 2}, "hoverinfo": "skip",
        }
    )  # fmt: skip
    rows = [
        [str(t.number), t.state.name.lower(), "–" if _value(t) is None else f"{_value(t):.4f}", _parameters(t)]
        for t in trials
    ]
    return Figure(
        "history", "History of the trials",
        "One mark a trial: its mean over the seeds. A pruned trial stands at the last value that it reported; a failed "
        "one has no value, and stands only in the table.",
        traces, {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": plain(monitor)}}},
        Table(["trial", "state", monitor, "parameters"], rows),
    )  # fmt: skip


def importance(read: Trials) -> Figure:
    """How much of the objective's variation each parameter accounts for."""
    names = list(read.importance)[::-1]
    shares = [read.importance[name] for name in names]
    return Figure(
        "importance", "Which parameter mattered",
        f"By Optuna's {read.evaluator}: how much a parameter's values among the best trials differ from those among "
        "all. Shares add up to 1; with few trials they are rough.",
        [{"type": "bar", "orientation": "h", "x": shares, "y": [plain(_short(name)) for name in names],
          "marker": {"color": "@c0"}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}],
        {"xaxis": {"title": {"text": "share"}, "range": [0, 1]}, "yaxis": {"type": "category", "automargin": True}},
        Table(["parameter", "share"], [[name, f"{read.importance[name]:.4f}"] for name in names[::-1]]),
        panel_height=120 + 40 * len(names),
    )  # fmt: skip


def parallel_coordinates(finished: list[FrozenTrial], names: list[str], monitor: str, maximize: bool) -> Figure:
    """A line a trial through its parameters to its objective; the better fifths are drawn thicker, and last."""
    values = np.array([trial.value for trial in finished], dtype=float)
    rank = np.argsort(np.argsort(values if maximize else -values, kind="stable"), kind="stable")
    positions: list[list[float | None]] = []
    ticks: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        column, ends = _positions(finished, name)
        positions.append(column)
        for height, text in ends:
            ticks.append(_tick(at, height, text))
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
                "customdata": [plain(_parameters(finished[index]))] * (len(names) + 1),
                "hovertemplate": "%{fullData.name}<br>%{customdata}<extra></extra>",
            }
        )  # fmt: skip
    titles = [*map(_short, names), monitor]
    rows = [[str(t.number), f"{t.value:.4f}", *(_text(t.params.get(name)) for name in names)] for t in finished]
    return Figure(
        "parallel", "Parallel coordinates",
        "Each line is a finished trial, from parameter to parameter to its objective. The darker and thicker, the "
        "better; a gap is a parameter that the trial's arm does not have.",
        traces,
        {"xaxis": {"tickvals": list(range(len(titles))), "ticktext": [plain(t) for t in titles], "showgrid": True,
                   "range": [-0.3, len(titles) - 0.5], "zeroline": False},
         "yaxis": {"visible": False, "range": [-0.08, 1.08]}, "annotations": ticks, "hovermode": "closest"},
        Table(["trial", monitor, *names], rows),
    )  # fmt: skip


def _tick(at: int, height: float, text: str) -> dict[str, Any]:
    return {
        "x": at, "y": height, "text": plain(text), "showarrow": False, "font": {"size": 11}, "xanchor": "left",
        "xshift": 5, "bgcolor": "@paper", "opacity": 0.85,
    }  # fmt: skip


def _positions(finished: list[FrozenTrial], name: str) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Heights in 0..1 on a parameter's axis, and what its ticks say."""
    distribution = next(trial.distributions[name] for trial in finished if name in trial.distributions)
    given = [trial.params.get(name) for trial in finished]
    if isinstance(distribution, FloatDistribution | IntDistribution):
        scale = np.log if distribution.log else float
        known = [value for value in given if value is not None]
        low, high = min(known), max(known)
        width = float(scale(high) - scale(low)) or 1.0
        heights = [None if value is None else float(scale(value) - scale(low)) / width for value in given]
        return heights, [(0.0, _text(low)), (1.0, _text(high))]
    words = sorted({_text(value) for value in given if value is not None})
    step = 1 / max(1, len(words) - 1)
    heights = [None if value is None else words.index(_text(value)) * step for value in given]
    return heights, [(index * step, word) for index, word in enumerate(words)]


def _value(trial: FrozenTrial) -> float | None:
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return trial.intermediate_values[max(trial.intermediate_values)]
    return trial.value if trial.state == TrialState.COMPLETE else None


def _parameters(trial: FrozenTrial) -> str:
    return ", ".join(f"{_short(name)}={_text(value)}" for name, value in trial.params.items())


def _short(name: str) -> str:
    arm, separator, path = name.rpartition(": ")
    return f"{arm}{separator}{path.rsplit('.', 1)[-1]}"


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
