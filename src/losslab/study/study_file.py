"""A study's YAML file: what is varied, measured and compared; and its copy in study.json."""

import argparse
import itertools
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jsonargparse
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from losslab.errors import UserError, expand_path, notice
from losslab.metrics import better_direction
from losslab.run import explain_parse_error, is_given, read_yaml
from losslab.study.results import Result, SettingResults, class_groups

DECLARED = ("seeds", "monitor", "direction", "baseline", "family", "storage", "tune")
"""Keys of a study file that study.json repeats under "declared": all that a summary of the results needs."""


@dataclass
class StudyFile:
    """A study; the fields are the keys of its YAML file.

    Args:
        experiment: the experiment file that every setting starts from, relative to the study file; on the command
            line relative to the current folder.
        arms: one or more variants: a label, and objects by path in the configuration, such as
            `model.init_args.loss: {class_path: ..., init_args: ...}`. An object is replaced whole, never merged.
        grid: path -> list of values: a finite study, every combination for every arm, once. Without grid, tune and
            space, the arms themselves are the settings.
        tune: path -> three increasing values > 0 or more, for one path without an upper bound, usually the learning
            rate. Like a grid, but settings that differ in this value alone count as one, at its best value. If that is
            the first or the last value, the next one in the same ratio is tried too, up to three times. So the
            comparison does not depend on how a loss scales the gradient.
        space: path -> an Optuna distribution by its class path: a search. It excludes grid and tune.
        arm_space: label -> path -> distribution, for that arm only.
        trials: number of settings that a search tries.
        seeds: each setting is trained once with each seed.
        monitor: the validation metric after the last epoch whose mean over the seeds is the objective.
        direction: whether more of the monitored metric is better; None: as the metric says (less of a loss or of ECE is
            better). Another direction than the metric's is refused.
        sampler: for a search; None: Optuna's TPE, seeded with 0.
        pruner: stops a setting within its first seed, step = epoch; None: nothing is pruned.
        baseline: the setting to compare with: `arm`, and the value of each path in `grid`.
        family: the validation metrics to compare with the baseline's; the monitored one is added. Their number times
            that of the other settings is the number of comparisons that intervals and verdicts account for. Empty:
            macro precision and recall and, where classes differ in frequency, the tail's.
        storage: "journal", a file in the study's folder, or a database URL for Optuna.
        population: number of trainings of one architecture that are trained at once, as one vectorised model; "auto"
            measures whether that is faster; 1: each is trained alone.
        max_retry: how often a setting whose process died is run again before it counts as failed.
        time_limit: seconds that a trial, one setting at all seeds, may take before it counts as failed; None: no limit.
        keep: "best" deletes the checkpoints of all but the best setting; "all" keeps them.
        stage: "confirm" in the files that `losslab confirm` writes; trackers log it.
    """

    experiment: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, list[float]] = field(default_factory=dict)
    space: dict[str, BaseDistribution] = field(default_factory=dict)
    arm_space: dict[str, dict[str, BaseDistribution]] = field(default_factory=dict)
    trials: int | None = None
    monitor: str = "val/f1/macro"
    direction: Literal["maximize", "minimize"] | None = None
    sampler: BaseSampler | None = None
    pruner: BasePruner | None = None
    baseline: dict[str, Any] | None = None
    family: list[str] = field(default_factory=list)
    storage: str = "journal"
    population: int | Literal["auto"] = 1
    max_retry: int = 3
    time_limit: float | None = None
    keep: Literal["best", "all"] = "best"
    stage: Literal["search", "confirm"] = "search"

    def __post_init__(self) -> None:
        self.direction = self.direction or better_direction(self.monitor)

    @property
    def is_search(self) -> bool:
        """Whether Optuna searches a space; else the settings are known in advance."""
        return bool(self.space or self.arm_space)

    @property
    def sign(self) -> int:
        """1 if more of the monitored metric is better, else -1."""
        return 1 if self.direction == "maximize" else -1

    @property
    def split(self) -> str:
        """The split whose metrics are compared: "val" or, in a confirmation, "test"."""
        return self.monitor.partition("/")[0]

    @classmethod
    def from_declared(cls, declared: dict[str, Any]) -> "StudyFile":
        """Return a study without experiment and arms, of the dictionary that `declared` returned.

        Raises:
            TypeError: a key is missing or unknown.
        """
        return cls(experiment="", arms={}, **declared)

    def declared(self) -> dict[str, Any]:
        """Return the fields that study.json keeps under "declared"."""
        return {key: getattr(self, key) for key in DECLARED}

    def endpoints(self, results: list[Result]) -> list[str]:
        """Return the metrics to compare: the family and the monitored metric.

        An empty family stands for macro precision and recall, and those of the tail if the results have one.
        """
        tailed = any(class_groups(result.get("class_counts", {})) for result in results)
        groups = ["macro", "tail"] if tailed else ["macro"]
        default = [f"{self.split}/{metric}/{group}" for group in groups for metric in ("precision", "recall")]
        return list(dict.fromkeys([*(self.family or default), self.monitor]))

    def is_baseline(self, setting: SettingResults) -> bool:
        """Whether `setting` is the declared baseline, at any tuned value."""
        return self.baseline is not None and self.candidate(setting) == self.baseline

    def candidate(self, setting: SettingResults) -> dict[str, Any]:
        """Return a setting's arm and values, without the tuned value."""
        return {"arm": setting.arm} | {path: value for path, value in setting.varied.items() if path not in self.tune}

    def score(self, setting: SettingResults) -> float:
        """Return a setting's mean of the monitored metric, negated if less of it is better; -inf if it is NaN."""
        mean = setting.mean_sd(self.monitor)[0]
        return -math.inf if math.isnan(mean) else self.sign * mean

    def best(self, settings: list[SettingResults]) -> SettingResults:
        """Return the setting with the best mean of the monitored metric."""
        return max(settings, key=self.score)

    def tuned(self, settings: list[SettingResults]) -> list[SettingResults]:
        """Return the best of each group of settings that differ only in the tuned value; complete settings come first.

        Choosing by the mean of the monitored metric is optimistic, for all groups alike.
        """
        candidates: dict[str, list[SettingResults]] = {}
        for setting in settings:
            candidates.setdefault(repr(self.candidate(setting)), []).append(setting)
        return [self.best([s for s in group if self.is_complete(s)] or group) for group in candidates.values()]

    def is_complete(self, setting: SettingResults) -> bool:
        """Whether `setting` has a result for each seed."""
        return setting.seeds == sorted(self.seeds)


def read_study(path: Path, changes: dict[str, Any]) -> StudyFile:
    """Read and check a study file.

    Args:
        path: the YAML file.
        changes: keys given on the command line, which replace the file's.

    Raises:
        UserError: a key, a type or a combination is wrong.
    """
    content = read_yaml(path) | changes
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    # The values of arms and grid belong to configurations; jsonargparse must not build objects of them here.
    unparsed: set[str | int] = {"arms", "grid"}
    parser.add_class_arguments(StudyFile, skip=unparsed)
    try:
        parsed = parser.parse_object({key: value for key, value in content.items() if key not in unparsed})
        objects = parser.instantiate_classes(parsed)
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(
            f"{path}: {explain_parse_error(str(error), [*parser.get_defaults().keys(), *map(str, unparsed)])}"
        ) from None
    study = StudyFile(**objects.as_dict(), arms=content.get("arms", {}), grid=content.get("grid") or {})
    if "experiment" not in changes:
        study.experiment = str(path.parent / expand_path(study.experiment, f"{path}: experiment"))
    _check(study, path)
    return study


def read_declared(folder: Path) -> StudyFile:
    """Read the study that runs/<study>/study.json declares.

    A direction that contradicts the metric, which earlier versions wrote for a monitored loss, is read as the metric's.

    Raises:
        UserError: there is no study.json, or it cannot be read.
    """
    try:
        study = StudyFile.from_declared(json.loads((folder / "study.json").read_text())["declared"])
    except FileNotFoundError:
        raise UserError(f"{folder} holds no study: there is no study.json in it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/study.json cannot be read ({type(error).__name__}: {error}); "
            "`losslab sweep` with the study's file writes it again."
        ) from None
    direction = better_direction(study.monitor)
    if study.direction == direction:
        return study
    notice(
        f"{folder} was run to {study.direction} {study.monitor}; its results are read to {direction} it. Where the "
        "study searched, tuned or pruned, it tried the wrong settings: run it again under another --name."
    )
    return replace(study, direction=direction)


def _check(study: StudyFile, path: Path) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise UserError(f"{path}: {message}")

    arms = study.arms
    mapped = isinstance(arms, dict) and bool(arms) and all(isinstance(part, dict) for part in arms.values())
    require(mapped, f"arms must map one label or more to overrides by path, got {arms!r}.")
    finite = bool(study.grid or study.tune)
    require(not (finite and study.is_search), "give either grid and tune (finite) or space (searched).")
    require(finite or study.is_search or len(arms) > 1, "give several arms, or a grid, or a space to search.")
    for key, values in study.grid.items():
        scalars = isinstance(values, list) and all(v is None or isinstance(v, str | int | float) for v in values)
        require(scalars and bool(values), f"grid.{key} must be a list of numbers, strings or null, got {values!r}.")
    require(len(study.tune) <= 1, f"tune must be one path, got {', '.join(study.tune)}.")
    for key, values in study.tune.items():
        increasing = len(values) >= 3 and all(0 < low < high for low, high in itertools.pairwise(values))
        require(increasing, f"tune.{key} must be three increasing numbers > 0 or more, got {values!r}.")
        require(key not in study.grid, f"{key} is in both grid and tune; give it in one.")
    require(study.is_search or study.trials is None, "trials is for a search; a grid has one for each combination.")
    require(not study.is_search or (study.trials or 0) >= 1, f"trials must be >= 1, got {study.trials}.")
    searched = {**study.space, **{key: space for own in study.arm_space.values() for key, space in own.items()}}
    choices = {key: each.choices for key, each in searched.items() if isinstance(each, CategoricalDistribution)}
    for key, listed in {**study.grid, **choices}.items():
        equal = next((pair for pair in itertools.combinations(listed, 2) if pair[0] == pair[1]), None)
        require(equal is None, f"{key} has the values {equal}, which count as one: delete one.")
    for arm, parts in arms.items():
        varied = {**study.grid, **study.tune, **study.space, **study.arm_space.get(arm, {})}
        paths = [*parts, *varied]
        for before, after in itertools.combinations(paths, 2):
            inner = before.startswith(f"{after}.") or before == after
            outer = after in parts and after.startswith(f"{before}.")
            twice = inner or (outer and is_given(parts[before], after[len(before) + 1 :]))
            require(not twice, f"arm {arm} gives {after} twice, by {before} and by {after}: delete one.")
    unknown = set(study.arm_space) - set(arms)
    require(not unknown, f"arm_space names {', '.join(sorted(unknown))}; the arms are {', '.join(arms)}.")
    seeds, size, limit = study.seeds, study.population, study.time_limit
    different = len({*seeds}) == len(seeds) > 0 and min(seeds) >= 0
    require(different, f"seeds must be one or more different numbers >= 0, got {seeds}.")
    require(size == "auto" or size >= 1, f"population must be a number >= 1 or auto, got {size!r}.")
    require(study.max_retry >= 0, f"max_retry must be >= 0, got {study.max_retry}.")
    require(limit is None or 0 < limit < float("inf"), f"time_limit must be > 0 seconds, got {limit}.")
    require(study.monitor.startswith("val/"), f"monitor must be a validation metric, got {study.monitor!r}.")
    direction = better_direction(study.monitor)
    contradiction = f"direction is {study.direction}, but {study.monitor} is to {direction}; leave direction out."
    require(study.direction == direction, contradiction)
    require(all(key.startswith("val/") for key in study.family), f"family must be val/ metrics, got {study.family}.")
    if study.baseline is not None:
        expected = {"arm", *study.grid}
        require(not study.is_search, "a baseline is one of the settings of a finite study; a search has none.")
        require(
            set(study.baseline) == expected
            and study.baseline["arm"] in arms
            and all(study.baseline[key] in values for key, values in study.grid.items()),
            f"baseline must give {', '.join(sorted(expected))}, each one of the study's values, got {study.baseline}.",
        )
