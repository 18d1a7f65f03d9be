"""A study's trials as Optuna's storage holds them: read, never changed."""

import warnings
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from losslab.run.folder import study_name


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
