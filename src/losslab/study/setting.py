"""A setting: one arm with one value for each varied path; its configuration; which ones a finite study trains."""

import copy
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial
from scipy.stats import qmc

from losslab.run import SEED, Config, set_value
from losslab.study.results import setting_label
from losslab.study.study_file import StudyFile

EXTENSIONS = 8
"""Values that tuning tries beyond either end of its list, at most."""

SEEDS = IntDistribution(0, 2**32 - 1)
"""The parameter "seed" of Optuna's trials, in finite studies."""


@dataclass(frozen=True)
class Setting:
    """One point of a study.

    Args:
        arm: the arm's label.
        values: values by path in the configuration.
    """

    arm: str
    values: dict[str, Any]

    def label(self, several_arms: bool) -> str:
        """Return a name such as "gamma=2", with the arm in front if the study has several."""
        return setting_label(self.arm, self.values, several_arms)

    def __hash__(self) -> int:
        return hash((self.arm, frozenset(self.values.items())))

    def config(self, study: StudyFile, base: Config, seed: int) -> Config:
        """Return `base` with the arm's objects, the values and the seed put in; parsing completes it."""
        config = copy.deepcopy(base) | {SEED: seed}
        for path, value in study.arms[self.arm].items():
            set_value(config, path, copy.deepcopy(value))
        for path, value in self.values.items():
            set_value(config, path, value)
        return config


@dataclass(frozen=True)
class Planned:
    """What one trial of a finite study trains.

    Args:
        setting: the setting.
        seed: its seed; None: all seeds of the study, one after the other, where a pruner stops settings.
    """

    setting: Setting
    seed: int | None

    def parameters(self, study: StudyFile) -> dict[str, Any]:
        """Return it as Optuna's parameters; see `suggest_setting`."""
        own = study.arm_tune.get(self.setting.arm, {})
        named = {f"{self.setting.arm}: {path}" if path in own else path: v for path, v in self.setting.values.items()}
        return {"arm": self.setting.arm, **named} | ({} if self.seed is None else {"seed": self.seed})


def planned_trials(study: StudyFile) -> list[Planned]:
    """Return the trials of a finite study, without those by which a tuned list is extended, seed by seed."""
    if len(study.tune) > len(study.lists):
        return [Planned(setting, seed) for seed in study.seeds for setting in _drawn_settings(study, seed)]
    settings = grid_settings(study)
    return [Planned(setting, seed) for seed in _seeds_of_trials(study) for setting in settings]


def _seeds_of_trials(study: StudyFile) -> list[int | None]:
    """Return the seeds that each setting has a trial for; [None] where one trial trains it at all seeds."""
    return [*study.seeds] if study.trains_by_seed else [None]


def _drawn_settings(study: StudyFile, seed: int) -> list[Setting]:
    """Return the settings of one seed: `draws` points for each candidate, whose shared paths all have the same values.

    The points are Halton's sequence (Halton 1960), scrambled by the seed, so that they fill the space evenly.
    """
    dimensions = len(study.tune) + max((len(own) for own in study.arm_tune.values()), default=0)
    points = qmc.Halton(dimensions, scramble=True, rng=np.random.default_rng([seed, 6])).random(study.draws)  # (D, d)
    found = []
    for candidate in candidate_settings(study):
        spaces = {**study.tune, **study.arm_tune.get(candidate.arm, {})}
        for point in points.tolist():
            values = {path: _at(space, share) for (path, space), share in zip(spaces.items(), point, strict=False)}
            found.append(Setting(candidate.arm, candidate.values | values))
    return found


def _at(space: Any, share: float) -> float:
    """Return the value at a share in [0, 1] of a distribution's width, or of its logarithm's."""
    ends = np.log([space.low, space.high]) if space.log else np.array([space.low, space.high])
    value = float(ends[0] + share * (ends[1] - ends[0]))
    # Rounded, for short labels; within the ends, whatever rounding does.
    return min(max(float(f"{math.exp(value) if space.log else value:.6g}"), space.low), space.high)


def candidate_settings(study: StudyFile) -> list[Setting]:
    """Return every combination of an arm with the values of grid; in a search, the arms."""
    return _combinations(study, study.grid)


def grid_settings(study: StudyFile) -> list[Setting]:
    """Return the candidates, each with every value of a tuned list."""
    return _combinations(study, {**study.grid, **study.lists})


def _combinations(study: StudyFile, varied: dict[str, list[Any]]) -> list[Setting]:
    combinations = list(itertools.product(*varied.values()))
    return [Setting(arm, dict(zip(varied, values, strict=True))) for arm in study.arms for values in combinations]


def settings_to_check(study: StudyFile) -> list[Setting]:
    """Return the settings to be checked before the first trial: all, or the corners of what is searched or drawn."""
    if not study.is_search and len(study.tune) == len(study.lists):
        return grid_settings(study)
    corners = []
    for setting in candidate_settings(study):
        own = {**study.arm_space.get(setting.arm, {}), **study.arm_tune.get(setting.arm, {})}
        ends = {path: _ends(space) for path, space in {**study.space, **study.tune, **own}.items()}
        corners += [Setting(setting.arm, setting.values | {p: pair[end] for p, pair in ends.items()}) for end in (0, 1)]
    return corners


def _ends(distribution: Any) -> tuple[Any, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def setting_from_parameters(params: dict[str, Any]) -> Setting:
    """Return the setting of Optuna's parameters."""
    arm = params["arm"]
    values = {name.removeprefix(f"{arm}: "): value for name, value in params.items() if name not in ("arm", "seed")}
    return Setting(arm, values)


def tuning_extensions(study: StudyFile, finished: Sequence[FrozenTrial], known: Sequence[FrozenTrial]) -> list[Planned]:
    """Return the trials to run next: a further value for each candidate whose best value ends the tuned list.

    A candidate is an arm with its values of grid; where each seed tunes, at that seed, else at all seeds, by the mean
    over them. A value that lacks a seed is not the best.

    Args:
        study: a study that tunes one path over a list.
        finished: the completed trials; one without a seed has the mean over all of them.
        known: all trials.
    """
    ((path, values),) = study.lists.items()
    others = {path} if study.tunes_each_seed else {path, "seed"}

    def candidate(trial: FrozenTrial) -> str:
        return repr(sorted((name, value) for name, value in trial.params.items() if name not in others))

    tried: dict[str, set[float]] = {}
    for trial in known:
        if path in trial.params:
            tried.setdefault(candidate(trial), set()).add(trial.params[path])
    scores: dict[str, dict[float, list[FrozenTrial]]] = {}
    for trial in finished:
        scores.setdefault(candidate(trial), {}).setdefault(trial.params[path], []).append(trial)
    needed = 1 if study.tunes_each_seed else len(study.seeds)
    found = []
    for key, by_value in scores.items():
        means = {
            value: study.sign * statistics.fmean(trial.value or 0.0 for trial in trials)
            for value, trials in by_value.items()
            if len(trials) == needed or "seed" not in trials[0].params
        }
        value = next_value(values, tried[key], max(means, key=means.__getitem__)) if means else None
        if value is not None:
            params = next(iter(by_value.values()))[0].params
            setting = setting_from_parameters(params | {path: value})
            seeds = [params["seed"]] if study.tunes_each_seed else _seeds_of_trials(study)
            found += [Planned(setting, seed) for seed in seeds]
    return found


def suggest_setting(study: StudyFile, trial: Trial) -> Setting:
    """Let Optuna suggest a setting: first the arm, then a value for each of its paths."""
    arm = trial.suggest_categorical("arm", list(study.arms))
    values: dict[str, Any] = {path: trial.suggest_categorical(path, choices) for path, choices in study.grid.items()}
    for path, tried in study.lists.items():
        low, high = tuning_range(tried)
        values[path] = trial.suggest_float(path, low, high, log=True)
    drawn = {path: space for path, space in study.tune.items() if isinstance(space, BaseDistribution)}
    values |= {path: _suggest(trial, path, space) for path, space in {**study.space, **drawn}.items()}
    # The name holds the arm, since another arm may search the same path in another range.
    spaces = {**study.arm_space.get(arm, {}), **study.arm_tune.get(arm, {})}
    own = {path: _suggest(trial, f"{arm}: {path}", space) for path, space in spaces.items()}
    if "seed" in trial.user_attrs.get("queued", {}):
        trial.suggest_int("seed", SEEDS.low, SEEDS.high)
    return Setting(arm, values | own)


def trial_seeds(study: StudyFile, trial: FrozenTrial | Trial) -> list[int]:
    """Return the seeds that a trial trains its setting with: its own or, of a search or an older version, all."""
    queued = trial.user_attrs.get("queued", {})
    return [queued["seed"]] if "seed" in queued else study.seeds


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    suggest: Any = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def tuning_range(values: list[float]) -> tuple[float, float]:
    """Return the lowest and the highest value that tuning may try.

    Args:
        values: the list in the study file: three increasing numbers > 0 or more.
    """
    return _beyond(values, -EXTENSIONS), _beyond(values, EXTENSIONS)


def next_value(values: list[float], tried: Iterable[float], best: float) -> float | None:
    """Return the value to try next; None if the best one has a neighbour on either side, or ends the range.

    Args:
        values: the list in the study file.
        tried: all values so far, failed ones included.
        best: the best of them.
    """
    downwards = best <= values[0]
    if not downwards and best < values[-1]:
        return None
    outwards = [_beyond(values, -step if downwards else step) for step in range(1, EXTENSIONS + 1)]
    further = [value for value in outwards if (value < best if downwards else value > best)]
    return further[0] if further and further[0] not in set(tried) else None


def _beyond(values: list[float], steps: int) -> float:
    """Return the value `steps` after the last one (negative: before the first), in the ratio of the two at that end."""
    end, before = (values[-1], values[-2]) if steps > 0 else (values[0], values[1])
    return float(f"{end * (end / before) ** abs(steps):.6g}")
