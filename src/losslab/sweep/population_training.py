"""Several trainings in one fit: each leaves the run folder and the result that it would leave alone."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from losslab.run.callbacks import Interrupted, Interruption, epoch_row, write_rows
from losslab.run.command_line import Built
from losslab.run.config import Config
from losslab.run.folder import RunFolder, write_predictions
from losslab.run.provenance import provenance, utc_now
from losslab.run.tracking import Summary, finish_trackers
from losslab.study.results import Result
from losslab.sweep.population import Population, PopulationData
from losslab.sweep.training import Training

Outcome = Result | Exception
"""A training's result, or why it has none: NonFiniteLossError, TrialPruned."""


class Member(NamedTuple):
    """A training that joins a population: what it is, what its configuration builds, and the configuration."""

    training: Training
    built: Built
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
                write_rows(folder.metrics_file, self.rows[k])
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
        members: two or more of one kinship.
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
        folder.write_manifest(provenance(config, data) | device | population_place)
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
        finish_trackers(built.trainer, Summary(folder, folder.predictions_file, data, "val"))
    if interruption.received is not None:
        raise Interrupted(interruption.received)
    return outcomes


def _write_member(built: Built, folder: RunFolder) -> None:
    """Predictions, and a checkpoint from which the member can be tested."""
    member = built.model
    write_predictions(folder.predictions_file, member.evaluated)  # type: ignore[arg-type]
    member.trainer = built.trainer
    built.trainer.strategy.connect(member)
    folder.checkpoints.mkdir()
    built.trainer.save_checkpoint(folder.checkpoints / "last.ckpt", weights_only=True)
