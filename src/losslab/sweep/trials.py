"""What the trials of a study say so far: what was queued, the best setting, and which trainings may still matter."""

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.study import (
    Planned,
    Setting,
    StudyFile,
    grid_settings,
    setting_from_parameters,
    trial_seeds,
)
from losslab.sweep.storage import Journal, PatientStorage


class Trials:
    """The trials of a study, each looked at when it is new and when it has finished, so that 10,000 stay quick.

    Args:
        opened: Optuna's study.
        storage: its storage.
        study: the study file.
    """

    def __init__(self, opened: optuna.Study, storage: Journal | PatientStorage, study: StudyFile) -> None:
        self._optuna, self._storage, self._study = opened, storage, study
        self._places = {} if study.is_search else {each: place for place, each in enumerate(grid_settings(study))}
        self._read = 0
        self._finished: set[int] = set()
        self._queued: set[str] = set()
        self._trainings = 0
        self._first: dict[str, int] = {}
        self._settings: dict[str, Setting] = {}
        self._orders: dict[str, int] = {}
        self._values: dict[str, dict[int, float | None]] = {}
        self._bests: dict[tuple[str, int], tuple[float, set[tuple[str, int]]]] = {}

    def read(self) -> None:
        """Take note of the trials that are new, and of those that have finished."""
        trials = self._optuna.get_trials(deepcopy=False)
        for trial in trials[self._read :]:
            if (queued := trial.user_attrs.get("queued")) is not None and _key(queued) not in self._queued:
                self._queued.add(_key(queued))
                self._first.setdefault(_key(queued, without_seed=True), trial.number)
                self._trainings += len(trial_seeds(self._study, trial))
        self._read = len(trials)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._finished:
                self._finished.add(trial.number)
                self._note(trial)

    def _note(self, trial: FrozenTrial) -> None:
        """Take note of a finished trial; one whose process was lost is queued again."""
        setting_hash, attributes = trial.user_attrs.get("setting_hash"), trial.user_attrs
        if setting_hash is None or (trial.state == TrialState.FAIL and "failure" not in attributes):
            return
        value = trial.value if trial.state == TrialState.COMPLETE else None
        setting = self._settings.setdefault(setting_hash, setting_from_parameters(trial.params))
        self._orders.setdefault(setting_hash, self.order(setting, trial))
        seeds = trial_seeds(self._study, trial)
        self._values.setdefault(setting_hash, {}).update(dict.fromkeys(seeds, value))
        if self._study.tunes_each_seed and value is not None:
            candidate = json.dumps([setting.arm, self._study.untuned(setting.arm, setting.values)], sort_keys=True)
            best, holders = self._bests.setdefault((candidate, seeds[0]), (-math.inf, set()))
            score = self._study.sign * value
            if score >= best:
                others = holders if score == best else set()
                self._bests[candidate, seeds[0]] = (score, others | {(setting_hash, seeds[0])})

    def enqueue(self, planned: Iterable[Planned]) -> None:
        """Queue trials, each once, also if an earlier process died halfway. Call it under the study's lock.

        What an older version queued as one trial for all seeds is not queued again.
        """
        self.read()
        with self._storage.together():
            for parameters in (each.parameters(self._study) for each in planned):
                if not {_key(parameters), _key(parameters, without_seed=True)} & self._queued:
                    self._optuna.enqueue_trial(parameters, {"queued": parameters})

    def total(self) -> int:
        """Return the number of trainings that the study has, as last read; a search prunes some of them."""
        return (self._study.trials or 0) * len(self._study.seeds) if self._study.is_search else self._trainings

    def order(self, setting: Setting, trial: Trial | FrozenTrial) -> int:
        """Return a setting's place in tables, the same for all its seeds."""
        queued = trial.user_attrs.get("queued", {})
        return self._places.get(setting, self._first.get(_key(queued, without_seed=True), trial.number))

    def best(self) -> tuple[str, float] | None:
        """Return the hash of the best setting so far and its mean over the seeds, among those with the most seeds."""
        values = {
            setting_hash: [value for _, value in sorted(by_seed.items()) if value is not None]
            for setting_hash, by_seed in self._values.items()
        }
        most = max(map(len, values.values()), default=0)
        means = {key: float(np.mean(each)) for key, each in values.items() if len(each) == most > 0}
        # Of equal ones the first, as in tables.
        best = min(means, key=lambda key: (-self._study.sign * means[key], self._orders[key]), default=None)
        return None if best is None else (best, means[best])

    def setting(self, setting_hash: str) -> Setting:
        """Return the setting of a finished trial."""
        return self._settings[setting_hash]

    def is_over(self, setting_hash: str, seed: int) -> bool:
        """Whether a training is finished; where seeds do not tune, its setting at all seeds."""
        by_seed = self._values.get(setting_hash, {})
        return seed in by_seed if self._study.tunes_each_seed else len(by_seed) == len(self._study.seeds)

    def losers(self, trainings: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return those of these trainings (hash and seed) that are not of the best setting, nor will be.

        Where seeds tune, it is the best of each candidate and seed.
        """
        bests = {key for _, holders in self._bests.values() for key in holders}
        best = None if self._study.tunes_each_seed else self.best()
        return [
            key for key in trainings if self.is_over(*key) and key not in bests and (best is None or key[0] != best[0])
        ]


def _key(parameters: dict[str, Any], without_seed: bool = False) -> str:
    kept = {name: value for name, value in parameters.items() if not (without_seed and name == "seed")}
    return json.dumps(kept, sort_keys=True)
