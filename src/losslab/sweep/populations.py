"""Which trainings are trained together as populations, and training them."""

import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from losslab.data import ImageDataModule
from losslab.run import (
    SEED,
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
from losslab.study import Result, Setting, StudyFile, read_result
from losslab.sweep.display import Display, TrainingProgress
from losslab.sweep.eligibility import TrainAloneError, loss_attributes, shared_model_key, why_alone
from losslab.sweep.identity import StudyChangedError
from losslab.sweep.ownership import LeaseLostError
from losslab.sweep.population import Population
from losslab.sweep.population_data import PopulationData
from losslab.sweep.training import Training, describe_error, report_epoch

Failures = dict[tuple[str, int], Exception]
"""Errors of trainings, by `Training.key`."""


QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
"""Arguments of a Trainer that shows and records nothing."""


class TimeLimitError(RuntimeError):
    """A training took longer than its study's time_limit."""


class Member(NamedTuple):
    """A training that joins a population, its trial, its configuration, and the parts built from it."""

    trial: Trial
    training: Training
    parts: Parts
    config: Config


class MemberRecords(Checkpoint):
    """Writes each member's metrics.csv, reports to Optuna, and stops the members of pruned trials.

    It is a Checkpoint because Lightning calls those after the module's own on_train_epoch_end. Of a trial's members the
    first one's metric is reported, and all stop together.
    """

    def __init__(self, folders: Sequence[RunFolder], members: Sequence[Member], study: StudyFile) -> None:
        self._folders, self._monitor = folders, study.monitor
        self._prunable: dict[Trial, list[int]] = {}
        for place, member in enumerate(members if study.pruner is not None else []):
            self._prunable.setdefault(member.trial, []).append(place)
        self.rows: list[list[dict[str, Any]]] = [[] for _ in folders]
        self.pruned: dict[int, optuna.TrialPruned] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Population)
        for k, folder in enumerate(self._folders):
            if k not in pl_module.stopped:
                self.rows[k].append(epoch_row(trainer, pl_module.metrics[k]))
                write_epochs(folder.metrics_file, self.rows[k])
        for trial, members in self._prunable.items():
            if members[0] in pl_module.stopped:
                continue
            if pruned := report_epoch(trial, trainer, pl_module.metrics[members[0]][self._monitor]):
                self.pruned |= dict.fromkeys(members, pruned)
                pl_module.stopped.update(members)
        trainer.should_stop = len(pl_module.stopped) == len(self._folders)


def why_unready(data: ImageDataModule) -> str | None:
    """Set up a data module; return why that failed, and its training will."""
    try:
        data.prepare_data()
        data.setup("fit")
    except OSError:
        raise
    except Exception as error:
        return describe_error(error)
    return None


def _write_member(parts: Parts, folder: RunFolder) -> None:
    """Write a member's predictions, and a checkpoint that `losslab test` can evaluate."""
    trainer, model = parts.trainer, parts.model
    write_predictions(folder.predictions_file, model.evaluated)  # type: ignore[arg-type]
    model.trainer = trainer
    trainer.strategy.connect(model)
    folder.checkpoints.mkdir()
    trainer.save_checkpoint(folder.checkpoints / "last.ckpt", weights_only=True)


class Populations:
    """Trains compatible trainings together; the caller trains the rest one by one.

    Args:
        command_line: parses and builds the trainings.
        configure: parses the configuration of a setting and a seed into `command_line`.
        study: the study file, whose population is a number.
        display: the study's display.
    """

    def __init__(
        self, command_line: CommandLine, configure: Callable[[Setting, int], object], study: StudyFile, display: Display
    ) -> None:
        self.size = study.population if isinstance(study.population, int) else 1
        self._command_line, self._configure, self._study, self._display = command_line, configure, study, display
        self._datas: dict[str, ImageDataModule] = {}
        self._said: set[str] = set()
        self._alone: set[str] = set()

    def train(self, trials: Sequence[tuple[Trial, Sequence[Training]]], check: Callback) -> Failures:
        """Train the trainings that can be trained together, and write their results.

        Args:
            trials: each with its trainings; the first one's metric is reported to the pruner.
            check: a callback of the Trainer.

        Returns:
            The errors of trainings that failed.
        """
        self._datas.clear()
        groups: dict[str, dict[tuple[str, int], Member]] = {}
        for trial, trainings in trials:
            for training in trainings:
                if read_result(training.result_path) is None:
                    member = self._build(trial, training)
                    if reason := why_alone(member.config, member.parts) or why_unready(member.parts.data):
                        self._say(f"{reason}: trained alone.")
                    else:
                        key = shared_model_key(member.config, member.parts)
                        groups.setdefault(key, {})[training.key] = member
        failures: Failures = {}
        for key, group in groups.items():
            # Members with the same loss side by side: those are computed as one.
            members = sorted(group.values(), key=lambda member: repr(loss_attributes(member.parts.model.loss)))
            parts = math.ceil(len(members) / self.size)
            ends = [len(members) * part // parts for part in range(parts + 1)]  # 20 members at most 16 are 10 and 10
            for start, end in itertools.pairwise(ends):
                failures |= self._train_chunk(key, members[start:end], check)
        return failures

    def _build(self, trial: Trial, training: Training) -> Member:
        self._configure(training.setting, training.seed)
        parts = self._command_line.build(logger_arguments=training.tracker_arguments())
        return Member(trial, training, self._with_shared_data(parts), self._command_line.resolved())

    def _with_shared_data(self, parts: Parts) -> Parts:
        """Return parts of the configuration in `command_line`: those with the same data and seed have one data module.

        Before the next call of `train` it is not loaded again.
        """
        config = self._command_line.resolved()
        key = json.dumps([config["data"], config[SEED]], sort_keys=True, default=repr)
        return parts._replace(data=self._datas.setdefault(key, parts.data))

    def _train_chunk(self, key: str, members: list[Member], check: Callback) -> Failures:
        """Train members as one population, or as the smaller ones that remain where some must be trained alone."""
        try:
            if len(members) > 1 and key not in self._alone:
                return self._train(members, check)
        except TrainAloneError as error:
            smaller = error.rest or []
            self._alone |= {key} if error.rest is None else set()
            self._say(f"{error}: {'each of them apart' if len(smaller) > 1 else 'trained alone'}.")
            failures: Failures = {}
            for places in smaller:  # from new parts: those of these members have begun
                rest = [self._build(members[k].trial, members[k].training) for k in places]
                failures |= self._train_chunk(key, rest, check)
            return failures
        return {}

    def _say(self, reason: str) -> None:
        """Print once why trainings are trained alone, or in smaller populations."""
        if reason not in self._said:
            self._said.add(reason)
            self._display.print(reason)

    def _train(self, members: list[Member], check: Callback) -> Failures:
        label = f"{len(members)} trainings as one"
        try:
            outcomes = self._train_as_one(members, [TrainingProgress(self._display, label, len(members)), check])
        except (OSError, LeaseLostError, UpdateFinishedTrialError, StudyChangedError, TrainAloneError):
            raise
        except TimeLimitError as error:
            self._display.print(f"{label}: {error}.")
            return {member.training.key: error for member in members}
        except Exception as error:  # too little memory, or a network that cannot be vectorised
            self._display.print(f"{label}: {describe_error(error)}. Each is trained alone.")
            return {}
        for member, outcome in zip(members, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                self._display.finish_training(member.training.result_line(outcome, self._study.monitor))
        return {m.training.key: o for m, o in zip(members, outcomes, strict=True) if isinstance(o, Exception)}

    def _train_as_one(self, members: Sequence[Member], callbacks: Sequence[Callback]) -> list[Result | Exception]:
        """Train members with the same shared_model_key by one Trainer, without its loggers and checkpoints.

        Returns:
            Each member's result, or its error (NonFiniteLossError, TrialPruned). Any other error, such as too little
            memory, is raised.
        """
        data = PopulationData([member.parts.data for member in members])
        data.setup("fit")
        folders = []
        for place, (_, training, parts, config) in enumerate(members):
            training.remove_remains()
            folders.append(RunFolder.create(training.run_path, config))
            own: Config = {"device": str(parts.trainer.strategy.root_device), "status": "running"}
            own |= {"population": {"size": len(members), "place": place}}
            folders[-1].write_manifest(new_manifest(config, parts.data) | own)
        population = Population([member.parts.model for member in members])  # type: ignore[misc]
        records, interruption = MemberRecords(folders, members, self._study), Interruption(None)
        self._configure(members[0].training.setting, members[0].training.seed)
        trainer = self._command_line.build([*callbacks, interruption, records], **QUIET).trainer
        started = time.monotonic()
        with interruption, warnings.catch_warnings():
            # Global average pooling sets a stride; vmap falls back to a loop over members that computes nothing.
            warnings.filterwarnings("ignore", "There is a performance drop .* aten::as_strided_")
            trainer.fit(population, datamodule=data)
        seconds = (time.monotonic() - started) / len(members)
        outcomes: list[Result | Exception] = []
        for k, (folder, (_, training, parts, _)) in enumerate(zip(folders, members, strict=True)):
            failure = population.failures.get(k) or records.pruned.get(k)
            end = {"ended_at": utc_now(), "seconds": round(seconds, 3), "status": "failed" if failure else "finished"}
            if failure is not None:
                folder.write_manifest(folder.manifest() | end | {"failure": f"{type(failure).__name__}: {failure}"})
                outcomes.append(failure)
                continue
            _write_member(parts, folder)
            folder.write_manifest(folder.manifest() | end)
            outcomes.append(training.write_result(population.metrics[k]))
            for row in records.rows[k]:
                for logger in parts.trainer.loggers:
                    logger.log_metrics({key: float(value) for key, value in row.items()}, int(row["step"]))
            finish_trackers(parts.trainer, TrackerSummary(folder, folder.predictions_file, parts.data, "val"))
        if interruption.received is not None:
            raise Interrupted(interruption.received)
        return outcomes
