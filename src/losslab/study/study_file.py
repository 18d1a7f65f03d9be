"""A study's YAML file: what is varied, measured and compared; and its copy in study.json."""

import argparse
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jsonargparse
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from losslab.errors import UserError, expand_path, notice
from losslab.metrics import better_direction, is_share
from losslab.run import explain_parse_error, is_given, read_yaml
from losslab.study.results import Result, SettingResults, class_groups, setting_label

DECLARED = (
    "seeds", "monitor", "direction", "baseline", "family", "margins", "storage", "tune", "arm_tune", "tune_per",
)  # fmt: skip
"""Keys of a study file that study.json repeats under "declared": all that a summary of the results needs."""

FACTOR = 2.0
"""Largest ratio of two neighbours in a list that each seed tunes over: the best rate of a coarser one may lie between
two values, and losses would be compared at rates that suit one of them better."""


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
        tune: path -> three increasing values > 0 or more, as a list or as {start: list}, for one path without an upper
            bound, usually the learning rate. Like a grid, but settings that differ in this value alone count as one, at
            its best value. While that is the first or the last value, the next one in the same ratio is tried too. So
            the comparison does not depend on how a loss scales the gradient. Or path -> an Optuna FloatDistribution,
            for one path or several: `draws` points are drawn, and all arms share them.
        arm_tune: label -> path -> an Optuna FloatDistribution, for that arm only: further coordinates of its draws,
            such as focal loss's gamma. `tune` must be drawn, too.
        draws: number of points of a `tune` that is drawn, afresh for each seed (Halton's sequence, scrambled).
        tune_per: "seed": each seed chooses the value by its own validation images, so that intervals contain the choice
            (Bouthillier et al. 2021, arXiv:2103.03098); neighbours in a list differ by a factor of 2 at most. "study":
            one value for all seeds, by their mean, which is quicker, and no interval contains the choice.
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
        margins: validation metric -> the smallest difference that matters, a share in (0, 1); for "alike" and "by less
            than the margin". It is declared before the study begins, and cannot be changed afterwards.
        storage: "journal", a file in the study's folder, or a database URL for Optuna.
        population: number of trainings of one architecture that are trained at once, as one vectorised model; 1: each
            is trained alone; "auto": as `losslab.sweep.speed` measures; None: so, unless `--workers` is a number.
        max_retry: how often a training whose process died is run again before it counts as failed.
        time_limit: seconds that a training may take before it counts as failed, or all of a setting that is a trial
            (see `trains_by_seed`); None: no limit.
        keep: "best" deletes the checkpoints of all but the best setting, of each other one at its last seed, or, where
            each seed tunes, of all but each seed's best; "all" keeps them.
        stage: "confirm" in the files that `losslab confirm` writes; trackers log it.
    """

    experiment: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    tune: dict[str, BaseDistribution | list[float] | dict[str, list[float]]] = field(default_factory=dict)
    arm_tune: dict[str, dict[str, BaseDistribution]] = field(default_factory=dict)
    draws: int | None = None
    tune_per: Literal["seed", "study"] = "seed"
    space: dict[str, BaseDistribution] = field(default_factory=dict)
    arm_space: dict[str, dict[str, BaseDistribution]] = field(default_factory=dict)
    trials: int | None = None
    monitor: str = "val/f1/macro"
    direction: Literal["maximize", "minimize"] | None = None
    sampler: BaseSampler | None = None
    pruner: BasePruner | None = None
    baseline: dict[str, Any] | None = None
    family: list[str] = field(default_factory=list)
    margins: dict[str, float] = field(default_factory=dict)
    storage: str = "journal"
    population: int | Literal["auto"] | None = None
    max_retry: int = 3
    time_limit: float | None = None
    keep: Literal["best", "all"] = "best"
    stage: Literal["search", "confirm"] = "search"

    def __post_init__(self) -> None:
        self.direction = self.direction or better_direction(self.monitor)
        for path, given in self.tune.items():
            if isinstance(given, dict) and given.keys() == {"start"}:
                self.tune[path] = given["start"]

    @property
    def lists(self) -> dict[str, list[float]]:
        """The lists of `tune`; {} if it is drawn."""
        return {path: given for path, given in self.tune.items() if isinstance(given, list)}

    @property
    def tunes_each_seed(self) -> bool:
        """Whether each seed chooses the tuned value."""
        return bool(self.tune) and self.tune_per == "seed"

    @property
    def trains_by_seed(self) -> bool:
        """Whether a trial is one setting at one seed; in a search, and where a pruner stops settings, it is at all."""
        return not self.is_search and self.pruner is None

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

        Versions before `tune_per` chose one value for all seeds.

        Raises:
            TypeError: a key is missing or unknown.
        """
        return cls(**{"experiment": "", "arms": {}, "tune_per": "study", **declared})

    def declared(self) -> dict[str, Any]:
        """Return the fields that study.json keeps under "declared"."""
        fields = {key: getattr(self, key) for key in DECLARED}
        fields["tune"] = {path: _plain(given) for path, given in self.tune.items()}
        fields["arm_tune"] = {arm: {path: _plain(g) for path, g in own.items()} for arm, own in self.arm_tune.items()}
        return fields

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
        """Return a setting's arm and values, without the tuned ones."""
        return {"arm": setting.arm, **self.untuned(setting.arm, setting.varied)}

    def untuned(self, arm: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return an arm's values, without the tuned ones."""
        tuned = {*self.tune, *self.arm_tune.get(arm, {})}
        return {path: value for path, value in values.items() if path not in tuned}

    def score(self, setting: SettingResults) -> float:
        """Return a setting's mean of the monitored metric, negated if less of it is better; -inf if it is NaN."""
        return self._signed(setting.mean_sd(self.monitor)[0])

    def _signed(self, value: float) -> float:
        return -math.inf if math.isnan(value) else self.sign * value

    def best(self, settings: list[SettingResults]) -> SettingResults:
        """Return the setting with the best mean of the monitored metric."""
        return max(settings, key=self.score)

    def replicates(self, results: list[Result]) -> list[Result]:
        """Return what each seed's tuning came to, if each seed tunes; else the results as they are.

        Returns:
            For each candidate (arm with its values of grid) and seed, the result with the best monitored metric on the
            validation images, under the candidate's label and hash: its `setting` is without the tuned values, which
            are under `tuned`. Such results come back as they are.
        """
        if not self.tunes_each_seed:
            return results
        monitor = f"val/{self.monitor.partition('/')[2]}"
        candidates: dict[str, dict[int, Result]] = {}
        for result in results:
            arm, values = result["setting"]["arm"], result["setting"]["values"]
            of_seed = candidates.setdefault(json.dumps([arm, self.untuned(arm, values)]), {})
            known, value = of_seed.get(result["seed"]), self._signed(result["metrics"][monitor])
            if known is None or value > self._signed(known["metrics"][monitor]):
                of_seed[result["seed"]] = result
        several = len({result["setting"]["arm"] for result in results}) > 1
        replicates = []
        for order, (key, of_seed) in enumerate(candidates.items()):
            arm, values = json.loads(key)
            own = {
                "label": setting_label(arm, values, several),
                "setting": {"arm": arm, "values": values},
                "setting_hash": hashlib.sha256(key.encode()).hexdigest()[:12],
                "order": order,
            }
            for _, result in sorted(of_seed.items()):
                given = result["setting"]["values"].items()
                tuned = {path: value for path, value in given if path not in values} or result.get("tuned", {})
                replicates.append(result | own | {"tuned": tuned})
        return replicates

    def tuned(self, settings: list[SettingResults]) -> list[SettingResults]:
        """Return the best of each group of settings that differ only in the tuned value; complete settings come first.

        Choosing by the mean of the monitored metric is optimistic, for all groups alike.
        """
        return [self.best([s for s in group if self.is_complete(s)] or group) for group in self.groups(settings)]

    def groups(self, settings: list[SettingResults]) -> list[list[SettingResults]]:
        """Return the settings of each candidate, which differ in the tuned value."""
        candidates: dict[str, list[SettingResults]] = {}
        for setting in settings:
            candidates.setdefault(repr(self.candidate(setting)), []).append(setting)
        return list(candidates.values())

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
    _check_tune(study, require)
    require(study.is_search or study.trials is None, "trials is for a search; a grid has one for each combination.")
    require(not study.is_search or (study.trials or 0) >= 1, f"trials must be >= 1, got {study.trials}.")
    searched = {**study.space, **{key: space for own in study.arm_space.values() for key, space in own.items()}}
    choices = {key: each.choices for key, each in searched.items() if isinstance(each, CategoricalDistribution)}
    for key, listed in {**study.grid, **choices}.items():
        equal = next((pair for pair in itertools.combinations(listed, 2) if pair[0] == pair[1]), None)
        require(equal is None, f"{key} has the values {equal}, which count as one: delete one.")
    for arm, parts in arms.items():
        own = {**study.arm_space.get(arm, {}), **study.arm_tune.get(arm, {})}
        varied = {**study.grid, **study.tune, **study.space, **own}
        paths = [*parts, *varied]
        for before, after in itertools.combinations(paths, 2):
            inner = before.startswith(f"{after}.") or before == after
            outer = after in parts and after.startswith(f"{before}.")
            twice = inner or (outer and is_given(parts[before], after[len(before) + 1 :]))
            require(not twice, f"arm {arm} gives {after} twice, by {before} and by {after}: delete one.")
    for name in ("arm_space", "arm_tune"):
        unknown = set(getattr(study, name)) - set(arms)
        require(not unknown, f"{name} names {', '.join(sorted(unknown))}; the arms are {', '.join(arms)}.")
    seeds, size, limit = study.seeds, study.population, study.time_limit
    different = len({*seeds}) == len(seeds) > 0 and min(seeds) >= 0
    require(different, f"seeds must be one or more different numbers >= 0, got {seeds}.")
    require(not isinstance(size, int) or size >= 1, f"population must be a number >= 1 or auto, got {size!r}.")
    require(study.max_retry >= 0, f"max_retry must be >= 0, got {study.max_retry}.")
    require(limit is None or 0 < limit < float("inf"), f"time_limit must be > 0 seconds, got {limit}.")
    require(study.monitor.startswith("val/"), f"monitor must be a validation metric, got {study.monitor!r}.")
    direction = better_direction(study.monitor)
    contradiction = f"direction is {study.direction}, but {study.monitor} is to {direction}; leave direction out."
    require(study.direction == direction, contradiction)
    require(all(key.startswith("val/") for key in study.family), f"family must be val/ metrics, got {study.family}.")
    for key, margin in study.margins.items():
        share = key.startswith("val/") and is_share(key) and 0 < margin < 1
        require(share, f"margins must map val/ metrics that are shares to numbers in (0, 1), got {key}: {margin}.")
        compared = not study.family or key in (*study.family, study.monitor)
        require(compared, f"margins.{key} is of a metric that is not compared: add it to family, or delete it.")
    if study.baseline is not None:
        expected = {"arm", *study.grid}
        require(not study.is_search, "a baseline is one of the settings of a finite study; a search has none.")
        require(
            set(study.baseline) == expected
            and study.baseline["arm"] in arms
            and all(study.baseline[key] in values for key, values in study.grid.items()),
            f"baseline must give {', '.join(sorted(expected))}, each one of the study's values, got {study.baseline}.",
        )


def _check_tune(study: StudyFile, require: Callable[[bool, str], None]) -> None:
    """Check the keys of a study file that say what is tuned."""
    per_seed, drawn = study.tune_per == "seed", {*study.tune} - {*study.lists}
    for key, values in study.lists.items():
        increasing = len(values) >= 3 and all(0 < low < high for low, high in itertools.pairwise(values))
        require(increasing, f"tune.{key} must be three increasing numbers > 0 or more, got {values!r}.")
        coarse = next((pair for pair in itertools.pairwise(values) if pair[1] / pair[0] > FACTOR * (1 + 1e-6)), None)
        require(
            not per_seed or coarse is None,
            f"tune.{key} steps from {coarse and coarse[0]} to {coarse and coarse[1]}, by more than a factor of "
            f"{FACTOR:g}, between which the best value may lie: add values. (At its ends the list extends itself.)",
        )
    require(not drawn or not study.lists, f"tune must be one list, or drawn; it mixes both: {', '.join(study.tune)}.")
    require(len(study.lists) <= 1, f"tune must be one list, got {', '.join(study.tune)}. Distributions may be several.")
    for key, given in [*study.tune.items(), *(item for own in study.arm_tune.values() for item in own.items())]:
        known = isinstance(given, list) or (isinstance(given, FloatDistribution) and given.step is None)
        require(known, f"{key} must be a list or a FloatDistribution without step to be tuned, got {given!r}.")
        require(key not in study.grid, f"{key} is in both grid and tune; give it in one.")
    twice = next(((arm, key) for arm, own in study.arm_tune.items() for key in own if key in study.tune), None)
    require(twice is None, f"arm_tune.{'.'.join(twice or ())} is in tune, too, which all arms share: delete one.")
    require(not study.arm_tune or bool(drawn), "arm_tune needs a `tune` that is drawn: give it a FloatDistribution.")
    require(not drawn or (study.draws or 0) >= 1, f"a tune that is drawn needs draws >= 1, got {study.draws}.")
    require(not drawn or per_seed, "a tune that is drawn is drawn for each seed: give tune_per: seed.")
    require(bool(drawn) or study.draws is None, "draws is for a tune that is drawn; a list has one for each value.")
    pruned = study.pruner is not None and study.tunes_each_seed
    require(not pruned, "a pruner gives up a setting at its first seed: give tune_per: study, or no pruner.")


def _plain(given: Any) -> Any:
    """Return a tuned path's list, or the ends of its distribution, as plain values."""
    return given if isinstance(given, list | dict) else {key: getattr(given, key) for key in ("low", "high", "log")}
