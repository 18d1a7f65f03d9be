"""Trials that were asked for together: which of their trainings form populations, and training those."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from losslab.run import (
    CommandLine,
    Config,
    Interrupted,
    Interruption,
    Parts,
    RunFolder,
    TrackerSummary,
    epoch_row,
    finish_trackers,
    new_manifest,
    utc_now,
    write_epochs,
    write_predictions,
)
from losslab.study import Result, read_result
from losslab.sweep.display import Display
from losslab.sweep.ownership import LeaseLostError
from losslab.sweep.population import Population, PopulationData, shared_model_key
from losslab.sweep.training import TimeLimitError, Training

WARM_UP, MEASURED = 5, 20
"""Steps not counted, and counted."""


class _MeasuredError(Exception):
    """Ends a training that was begun for its speed."""


class Stopwatch(Callback):
    """Measures seconds a step in the first epoch, which has to have two steps or more. Give it to the Trainer."""

    def measure(self, trainer: Trainer, model: LightningModule, data: Any) -> float:
        """Begin to train, give up after the measured steps, and return the mean seconds of one."""
        try:
            trainer.fit(model, datamodule=data)
        except _MeasuredError:
            return self._seconds
        raise AssertionError("the epoch had no second step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = min(WARM_UP + MEASURED, int(trainer.num_training_batches)) - 1
        first = max(min(WARM_UP, last) - 1, 0)
        if batch_idx in (first, last) and pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        if batch_idx == first:
            self._start = time.perf_counter()
        elif batch_idx == last:
            self._seconds = (time.perf_counter() - self._start) / (last - first)
            raise _MeasuredError


Outcome = Result | Exception
"""A training's result, or why it has none: NonFiniteLossError, TrialPruned."""


class Member(NamedTuple):
    """A training that joins a population: what it is, what its configuration builds, and the configuration."""

    training: Training
    built: Parts
    config: Config


class Pruned(NamedTuple):
    """A trial that may be pruned: the member whose metric is reported, and all members that stop with it."""

    trial: optuna.Trial
    speaker: int
    members: list[int]


class MemberRecords(Checkpoint):
    """Writes each member's metrics.csv, and reports to Optuna and stops what is pruned.

    It is a Checkpoint because Lightning calls those behind the module's own end of epoch.
    """

    def __init__(self, folders: Sequence[RunFolder], prunable: Sequence[Pruned], monitor: str) -> None:
        self._folders, self._prunable, self._monitor = folders, prunable, monitor
        self.rows: list[list[dict[str, Any]]] = [[] for _ in folders]
        self.pruned: dict[int, optuna.TrialPruned] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Population)
        for k, folder in enumerate(self._folders):
            if k not in pl_module.stopped:
                self.rows[k].append(epoch_row(trainer, pl_module.metrics[k]))
                write_epochs(folder.metrics_file, self.rows[k])
        for trial, speaker, members in self._prunable:
            if speaker in pl_module.stopped:
                continue
            trial.report(pl_module.metrics[speaker][self._monitor], trainer.current_epoch)
            if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and trial.should_prune():
                pruned = optuna.TrialPruned(f"pruned after epoch {trainer.current_epoch}")
                self.pruned |= dict.fromkeys(members, pruned)
                pl_module.stopped.update(members)
        trainer.should_stop = len(pl_module.stopped) == len(self._folders)


def train_population(
    members: Sequence[Member],
    build_trainer: Callable[[Sequence[Callback]], Trainer],
    prunable: Sequence[Pruned],
    monitor: str,
) -> list[Outcome]:
    """Train several kin trainings as one population.

    Args:
        members: two or more of one shared_model_key.
        build_trainer: gives the Trainer that any of them configures, with further callbacks, and without loggers and
            checkpoints: those are each member's own.
        prunable: the trials that a pruner may stop, by members' places.
        monitor: the metric that a pruner hears of.

    Returns:
        An outcome for each member. Any other error, such as too little memory, is raised.
    """
    data = members[0].built.data
    data.prepare_data()
    data.setup("fit")
    folders = []
    for place, (training, built, config) in enumerate(members):
        training.remove_remains()
        folder = RunFolder.create(training.run_path, config)
        device = {"device": str(built.trainer.strategy.root_device), "status": "running"}
        population_place = {"population": {"size": len(members), "place": place}}
        folder.write_manifest(new_manifest(config, data) | device | population_place)
        folders.append(folder)
    population = Population([member.built.model for member in members])  # type: ignore[misc]
    records, interruption = MemberRecords(folders, prunable, monitor), Interruption(None)
    trainer = build_trainer([interruption, records])
    started = time.monotonic()
    with interruption, warnings.catch_warnings():
        # Of global average pooling, which sets a stride; the fallback is a loop over members that computes nothing.
        warnings.filterwarnings("ignore", "There is a performance drop .* aten::as_strided_")
        trainer.fit(population, datamodule=PopulationData(data, [member.training.seed for member in members]))
    seconds = (time.monotonic() - started) / len(members)
    outcomes: list[Outcome] = []
    for k, (folder, (training, built, _)) in enumerate(zip(folders, members, strict=True)):
        failure = population.failures.get(k) or records.pruned.get(k)
        end = {"ended_at": utc_now(), "seconds": round(seconds, 3), "status": "failed" if failure else "finished"}
        if failure is not None:
            folder.write_manifest(folder.manifest() | end | {"failure": f"{type(failure).__name__}: {failure}"})
            outcomes.append(failure)
            continue
        _write_member(built, folder)
        folder.write_manifest(folder.manifest() | end)
        outcomes.append(training.write_result(population.metrics[k]))
        for row in records.rows[k]:
            for logger in built.trainer.loggers:
                logger.log_metrics({key: float(value) for key, value in row.items()}, int(row["step"]))
        finish_trackers(built.trainer, TrackerSummary(folder, folder.predictions_file, data, "val"))
    if interruption.received is not None:
        raise Interrupted(interruption.received)
    return outcomes


def _write_member(built: Parts, folder: RunFolder) -> None:
    """Predictions, and a checkpoint from which the member can be tested."""
    member = built.model
    write_predictions(folder.predictions_file, member.evaluated)  # type: ignore[arg-type]
    member.trainer = built.trainer
    built.trainer.strategy.connect(member)
    folder.checkpoints.mkdir()
    built.trainer.save_checkpoint(folder.checkpoints / "last.ckpt", weights_only=True)


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
                    common = shared_model_key(member.config, member.built)
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
        """Whether to train together: always, if a size was given; else what a few steps say, once for each key."""
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
