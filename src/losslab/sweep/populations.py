"""Trials that were asked for together: which of their trainings form populations, and training those."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Callback
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from losslab.run.command_line import CommandLine
from losslab.study.results import read_result
from losslab.sweep.display import Display
from losslab.sweep.kinship import kinship
from losslab.sweep.lease import LeaseLostError
from losslab.sweep.population import Population, PopulationData
from losslab.sweep.population_training import Member, Pruned, train_population
from losslab.sweep.stopwatch import Stopwatch
from losslab.sweep.time_limit import TimeLimitError
from losslab.sweep.training import Training

AUTO_SIZE = 16
"""Trainings in a population whose size is not given."""

Failures = dict[tuple[str, int], Exception]
"""By a training's setting hash and seed, why it has no result."""

_QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
}


class _Candidate(NamedTuple):
    trial: Trial
    member: Member


class Populations:
    """Trains what is kin, as one; what is left has no kin, and is trained alone.

    Args:
        command_line: parses and builds the trainings.
        take: lets it hold a training's configuration.
        size: the most members of a population; "auto" takes populations of 16 where a few steps show that to be faster.
        monitor: the study's metric.
        prunes: whether a pruner hears of it.
        display: of the study.
    """

    def __init__(
        self,
        command_line: CommandLine,
        take: Callable[[Training], object],
        size: int | Literal["auto"],
        monitor: str,
        prunes: bool,
        display: Display,
    ) -> None:
        self.size = AUTO_SIZE if size == "auto" else size
        self._command_line, self._take, self._display = command_line, take, display
        self._monitor, self._prunes = monitor, prunes
        self._together: dict[str, bool] | None = {} if size == "auto" else None

    def train(self, trials: Sequence[tuple[Trial, Sequence[Training]]], callbacks: Sequence[Callback] = ()) -> Failures:
        """Train what can be trained together, and write the results.

        Args:
            trials: each with its trainings, the first of which speaks for it to the pruner.
            callbacks: added to the Trainer's.
        """
        kin: dict[str, dict[tuple[str, int], _Candidate]] = {}
        for trial, trainings in trials:
            for training in trainings:
                if read_result(training.result_path) is None:
                    self._take(training)
                    member = Member(
                        training,
                        self._command_line.build(logger_arguments=training.tracker_arguments()),
                        self._command_line.resolved(),
                    )
                    common = kinship(member.config, member.built)
                    if common is not None:
                        kin.setdefault(common, {})[training.setting_hash, training.seed] = _Candidate(trial, member)
        failures: Failures = {}
        for common, group in kin.items():
            candidates = list(group.values())
            for start in range(0, len(candidates), self.size):
                part = candidates[start : start + self.size]
                if len(part) > 1 and self._worth_it(common, [candidate.member.training for candidate in part]):
                    failures |= self._train(part, callbacks)
        return failures

    def _train(self, candidates: list[_Candidate], callbacks: Sequence[Callback]) -> Failures:
        members = [candidate.member for candidate in candidates]
        keys = [(member.training.setting_hash, member.training.seed) for member in members]
        label = f"{len(members)} trainings as one"
        progress = self._display.training(label, len(members))
        try:
            self._take(members[0].training)
            outcomes = train_population(
                members,
                lambda own: self._command_line.build([progress, *callbacks, *own], **_QUIET).trainer,
                self._prunable(candidates),
                self._monitor,
            )
        except (OSError, LeaseLostError, UpdateFinishedTrialError):
            raise
        except TimeLimitError as error:
            self._display.line(f"{label}: {error}.")
            return dict.fromkeys(keys, error)
        except Exception as error:  # too little memory, or a network that cannot be vectorised
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._display.line(f"{label}: {reason}. Each is trained alone.")
            return {}
        failures: Failures = {}
        for key, member, outcome in zip(keys, members, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures[key] = outcome
            else:
                self._display.training_ended(member.training.ended(outcome, self._monitor))
        return failures

    def _prunable(self, candidates: list[_Candidate]) -> list[Pruned]:
        if not self._prunes:
            return []
        of_trial: dict[int, list[int]] = {}
        for place, (trial, _) in enumerate(candidates):
            of_trial.setdefault(trial.number, []).append(place)
        return [Pruned(candidates[places[0]].trial, places[0], places) for places in of_trial.values()]

    def _worth_it(self, common: str, trainings: Sequence[Training]) -> bool:
        """Whether to train together: always, if a size was given; else what a few steps say, once for each kinship."""
        if self._together is None:
            return True
        if common not in self._together:
            try:
                ratio = self._solo_seconds(trainings[0]) * len(trainings) / self._population_seconds(trainings)
            except Exception as error:
                ratio = 0.0
                self._display.line(
                    f"{len(trainings)} trainings as one: {type(error).__name__}: {error}".splitlines()[0]
                )
            self._together[common] = ratio > 1
            self._display.line(
                f"{len(trainings)} trainings as one take {ratio:.1f} times fewer seconds a step than one by one: "
                f"trained {'together' if ratio > 1 else 'one by one'}."
            )
        return self._together[common]

    def _solo_seconds(self, training: Training) -> float:
        self._take(training)
        trainer, model, data = self._command_line.build([clock := Stopwatch()], enable_checkpointing=False, **_QUIET)
        return clock.measure(trainer, model, data)

    def _population_seconds(self, trainings: Sequence[Training]) -> float:
        members: list[Any] = []
        for training in trainings:
            self._take(training)
            trainer, model, data = self._command_line.build(
                [clock := Stopwatch()], enable_checkpointing=False, **_QUIET
            )
            members.append(model)
        return clock.measure(trainer, Population(members), PopulationData(data, [t.seed for t in trainings]))
