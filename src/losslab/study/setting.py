"""A setting: one arm with one value for each varied path; its configuration; values beyond a tuned list."""

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from losslab.run import SEED, Config, set_value
from losslab.study.study_file import StudyFile

EXTENSIONS = 3
"""Values that tuning tries beyond either end of its list, at most."""


@dataclass(frozen=True)
class Setting:
    """One point of a study.

    Args:
        arm: the arm's label.
        values: values by path in the configuration.
    """

    arm: str
    values: dict[str, Any]

    def parameters(self) -> dict[str, Any]:
        """Return the setting as Optuna's parameters."""
        return {"arm": self.arm, **self.values}

    def label(self, several_arms: bool) -> str:
        """Return a name such as "gamma=2", with the arm in front if the study has several."""
        names = short_names(self.values)
        parts = [self.arm] if several_arms or not self.values else []
        for path, value in self.values.items():
            parts.append(f"{names[path]}={value:.4g}" if isinstance(value, float) else f"{names[path]}={value}")
        return " ".join(parts)

    def config(self, study: StudyFile, base: Config, seed: int) -> Config:
        """Return `base` with the arm's objects, the values and the seed put in; parsing completes it."""
        config = copy.deepcopy(base) | {SEED: seed}
        for path, value in study.arms[self.arm].items():
            set_value(config, path, copy.deepcopy(value))
        for path, value in self.values.items():
            set_value(config, path, value)
        return config


def short_names(paths: Any) -> dict[str, str]:
    """Return the last word of each path, or the whole path where two end alike."""
    last = [path.rsplit(".", 1)[-1] for path in paths]
    return {path: word if last.count(word) == 1 else path for path, word in zip(paths, last, strict=True)}


def grid_settings(study: StudyFile) -> list[Setting]:
    """Return every combination of the values of grid and tune, for every arm."""
    varied = {**study.grid, **study.tune}
    combinations = list(itertools.product(*varied.values()))
    return [Setting(arm, dict(zip(varied, values, strict=True))) for arm in study.arms for values in combinations]


def corner_settings(study: StudyFile) -> list[Setting]:
    """Return the lowest and the highest values of each arm of a search, to be checked before the first trial."""
    corners = []
    for arm in study.arms:
        ends = {path: _ends(space) for path, space in (study.space | study.arm_space.get(arm, {})).items()}
        corners += [Setting(arm, {path: pair[end] for path, pair in ends.items()}) for end in (0, 1)]
    return corners


def _ends(distribution: BaseDistribution) -> tuple[Any, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0], distribution.choices[-1]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def setting_from_parameters(params: dict[str, Any]) -> Setting:
    """Return the setting of Optuna's parameters."""
    arm = params["arm"]
    return Setting(arm, {name.removeprefix(f"{arm}: "): value for name, value in params.items() if name != "arm"})


def tuning_extensions(study: StudyFile, finished: Sequence[FrozenTrial], known: Sequence[FrozenTrial]) -> list[Setting]:
    """Return the settings to try next: a further value for each candidate whose best value ends the tuned list.

    A candidate is an arm with its values of grid.

    Args:
        study: a study that tunes one path.
        finished: the completed trials.
        known: all trials.
    """
    ((path, values),) = study.tune.items()
    best: dict[str, FrozenTrial] = {}
    for trial in finished:
        candidate = _untuned(trial, path)
        if candidate not in best or study.sign * (trial.value or 0.0) > study.sign * (best[candidate].value or 0.0):
            best[candidate] = trial
    found = []
    for candidate, trial in best.items():
        tried = [other.params[path] for other in known if path in other.params and _untuned(other, path) == candidate]
        value = next_value(values, tried, trial.params[path])
        if value is not None:
            setting = setting_from_parameters(trial.params)
            found.append(Setting(setting.arm, {**setting.values, path: value}))
    return found


def _untuned(trial: FrozenTrial, path: str) -> str:
    """Return a key that is the same for all trials of one candidate."""
    return repr(sorted((name, value) for name, value in trial.params.items() if name != path))


def suggest_setting(study: StudyFile, trial: Trial) -> Setting:
    """Let Optuna suggest a setting: first the arm, then a value for each of its paths."""
    arm = trial.suggest_categorical("arm", list(study.arms))
    if not study.is_search:
        values = {path: trial.suggest_categorical(path, choices) for path, choices in study.grid.items()}
        for path, tried in study.tune.items():
            low, high = tuning_range(tried)
            values[path] = trial.suggest_float(path, low, high, log=True)
        return Setting(arm, values)
    values = {path: _suggest(trial, path, distribution) for path, distribution in study.space.items()}
    # The name holds the arm, since another arm may search the same path in another range.
    own = {path: _suggest(trial, f"{arm}: {path}", space) for path, space in study.arm_space.get(arm, {}).items()}
    return Setting(arm, values | own)


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
