"""The loop of a study, in one of its processes: ask Optuna for trials, train them at each seed, tell the results."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.errors import TrainingError, UserError
from losslab.run import CommandLine, config_hash
from losslab.study import (
    Setting,
    StudyFile,
    planned_trials,
    read_result,
    read_results,
    setting_from_parameters,
    suggest_setting,
    trial_seeds,
    tuning_extensions,
)
from losslab.sweep.display import Display, TrainingProgress
from losslab.sweep.eligibility import shared_config
from losslab.sweep.identity import Identity, StudyChangedError
from losslab.sweep.ownership import (
    LEASE_SECONDS,
    Lease,
    LeaseLostError,
    count_spent,
    may_meet_another,
    requeue_lost,
    waits_for_another,
)
from losslab.sweep.population_data import PopulationData
from losslab.sweep.populations import Failures, Populations, TimeLimitError
from losslab.sweep.storage import open_study
from losslab.sweep.training import Pruning, Training, checkpoint_folders, describe_error, drop_checkpoints, train
from losslab.sweep.trials import Trials

POLL_SECONDS = 1.0
"""How often a process without work checks whether another one has finished, or died."""


class Study:
    """A study in its folder: its Optuna study, and the loop that finishes it.

    It is long because each step of the loop may meet another process, a lost lease, a failure or a signal.

    Args:
        study: the study file.
        folder: runs/<study>; `open` needs it.
        command_line: holds the experiment that the settings start from; parses and builds the settings.
    """

    def __init__(self, study: StudyFile, folder: Path, command_line: CommandLine) -> None:
        self.file, self.folder, self.command_line = study, folder, command_line
        self.command_line.monitor = study.monitor
        self.base = command_line.resolved()
        self._lock = FileLock(folder / "lock")
        self.identity = Identity(study, folder, command_line, self._lock)
        self._hashes: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._folders: dict[tuple[str, int], set[Path]] = {}

    def open(self, wait: bool = False) -> None:
        """Open or create the Optuna study; `wait`: retry a database that does not answer (it has answered before).

        Raises:
            UserError: the storage cannot be opened.
        """
        with self._lock:
            self.optuna, self._storage = open_study(self.file, self.folder, wait)
            self.trials = Trials(self.optuna, self._storage, self.file)
            if not self.file.is_search:
                self.trials.enqueue(planned_trials(self.file))
            self.trials.read()
        self._lease = Lease(self._storage)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def run(self, display: Display, stop: Callable[[], bool] = lambda: False) -> None:
        """Run trials until the study is done or `stop` returns True; wait for the trials of other processes."""
        populations = Populations(self.command_line, self._prepare, self.file, display)
        at_once = populations.size if self.file.trains_by_seed else max(1, populations.size // len(self.file.seeds))
        if self.file.time_limit is not None:
            # Twice: as a population that fails and then one by one. A longer trial counts as hung and is requeued.
            self._lease.seconds = 2 * self.file.time_limit * at_once + LEASE_SECONDS
        with self._lease:
            waits = False
            while not stop():
                trials = self._ask_for(at_once)
                if trials:
                    failures = self._train_together(trials, populations) if populations.size > 1 else {}
                    for trial in trials:
                        self._run_trial(trial, failures, display)
                    self._keep_best(display)
                elif self._trials(TrialState.RUNNING):
                    if not waits:
                        display.print("Other processes train the rest; waiting for them.")
                    time.sleep(POLL_SECONDS)
                else:
                    break
                waits = not trials
            self._keep_best(display, at_end=True)

    def is_done(self) -> bool:
        """Whether no trial is left, waiting or running."""
        return not self._left() and not self._trials(TrialState.RUNNING)

    def _ask_for(self, most: int) -> list[Trial]:
        """Return the next trials, marked as this process's; none if all are done or run by other processes.

        Several of a finite study may form a population with the first of them; what is left of those is divided evenly:
        20 trials, at most 16 at once, are 10 and 10.
        """
        trials: list[Trial] = []
        with self._lock:
            requeue_lost(self.optuna, self._lease)
            if self.file.lists and not self._trials(TrialState.WAITING, TrialState.RUNNING):
                further = tuning_extensions(self.file, self._trials(TrialState.COMPLETE), self._trials())
                self.trials.enqueue(sorted(further, key=lambda planned: planned.seed or 0))
            waiting, left = self._trials(TrialState.WAITING), self._left()
            chosen = most > 1 and self.file.trains_by_seed
            if chosen and waiting:
                waiting = [trial for trial in waiting if self._in_common(trial) == self._in_common(waiting[0])]
                left = len(waiting)
            for place in range(math.ceil(left / math.ceil(left / most)) if left else 0):
                trial = self._take(waiting[place]) if chosen else self.optuna.ask()
                if trial is None:
                    continue
                self._lease.hold(trial)
                # Stores the setting's hash before another process can ask, which thus sees that it is in training.
                setting = suggest_setting(self.file, trial)
                with contextlib.suppress(UserError):  # raised again when the setting is to be trained
                    self._mark(trial, setting)
                trials.append(trial)
        return sorted(trials, key=lambda trial: trial.number)

    def _take(self, waiting: FrozenTrial) -> Trial | None:
        """Begin a waiting trial, as `optuna.Study.ask` does with the first of them; None if another process has it.

        Call it under the study's lock, which not all file systems keep.
        """
        is_ours = self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        return Trial(self.optuna, waiting._trial_id) if is_ours else None

    def _in_common(self, waiting: FrozenTrial) -> str:
        """Return what the trainings of a population have in common, as far as their unparsed configurations show."""
        setting = setting_from_parameters(waiting.user_attrs["queued"])
        if repr(setting) not in self._shared:
            config = setting.config(self.file, self.base, 0)
            self._shared[repr(setting)] = shared_config(config)
        return self._shared[repr(setting)]

    def _left(self) -> int:
        """Return the number of trials that are still to be asked for."""
        left = len(self._trials(TrialState.WAITING))
        return left + max(0, (self.file.trials or 0) - count_spent(self._trials())) if self.file.is_search else left

    def _train_together(self, trials: list[Trial], populations: Populations) -> Failures:
        """Train as populations; `_run_trial` then finds the results, and trains the rest one by one."""
        numbers = {trial.number for trial in trials}
        others = [other for other in self._trials(TrialState.RUNNING) if other.number not in numbers]
        ready = [
            trial
            for trial in trials
            if trial.user_attrs.get("retries", 0) <= self.file.max_retry
            and not waits_for_another(others, trial, self._lease)
        ]
        try:
            trainings = [(trial, [self._training(trial, s) for s in trial_seeds(self.file, trial)]) for trial in ready]
            return populations.train(trainings, self._check(ready))
        except (LeaseLostError, UpdateFinishedTrialError):
            return {}  # one lease or more is lost; `_run_trial` sees which
        except OSError as error:
            raise UserError(f"in {self.folder}: {error}. The same command continues the study.") from error

    def _check(self, trials: list[Trial]) -> Callback:
        """Return a callback that ends a training if images changed, a trial was requeued, or the time is over.

        Each trial may take `time_limit` from now on, over all its trainings; if several are trained together, their
        times add up.
        """
        limit = (self.file.time_limit or math.inf) * len(trials)
        deadline = time.monotonic() + limit
        settings = [trial.user_attrs["setting_hash"] for trial in trials if "setting_hash" in trial.user_attrs]

        def check_images(trainer: Any, *_: Any, **__: Any) -> None:
            data = trainer.datamodule
            self.identity.require_same_images(data.data if isinstance(data, PopulationData) else data, settings)

        def check_leases_and_time(*_: Any) -> None:
            for trial in trials:
                self._lease.check(trial)
            if time.monotonic() > deadline:
                raise TimeLimitError(f"the trial took longer than the {limit:g} seconds that time_limit allows")

        return LambdaCallback(setup=check_images, on_train_batch_end=check_leases_and_time)

    def _mark(self, trial: Trial, setting: Setting) -> str:
        """Return a setting's hash, and store it in its trial; the configuration is parsed once for all its seeds."""
        setting_hash = self._hashes.get(repr(setting)) or self.configure(setting, trial_seeds(self.file, trial)[0])
        if trial.user_attrs.get("setting_hash") != setting_hash:
            trial.set_user_attr("setting_hash", setting_hash)
        return setting_hash

    def _training(self, trial: Trial, seed: int) -> Training:
        setting = setting_from_parameters(trial.params)
        setting_hash = self._mark(trial, setting)
        # A process that lost this setting and is still alive must not write into the same folder.
        meets = may_meet_another(self._trials(TrialState.RUNNING, TrialState.FAIL), trial)
        attempt = f"-trial-{trial.number}" if meets else ""
        order, label = self.trials.order(setting, trial), self.label(setting)
        training = Training(self.folder, setting, setting_hash, seed, order, label, attempt, self.file.stage)
        self._folders.setdefault(training.key, set()).add(training.run_path / "checkpoints")
        return training

    def configure(self, setting: Setting, seed: int) -> str:
        """Parse the setting's configuration with a seed into the command line.

        Returns:
            The setting's identity: twelve digits of the hash of the resolved configuration without its seed.
        """
        self.command_line.parse_config(setting.config(self.file, self.base, seed))
        self._hashes[repr(setting)] = config_hash(self.command_line.resolved(), with_seed=False)[:12]
        return self._hashes[repr(setting)]

    def _prepare(self, setting: Setting, seed: int) -> None:
        """Parse a setting's configuration for a training, and require the code that the study began with."""
        self.configure(setting, seed)
        self.identity.require_same_code()

    def _run_trial(self, trial: Trial, failures: Failures, display: Display) -> None:
        """Train a trial's setting at each of its seeds, and tell Optuna the mean, or the failure."""
        label = self._trial_label(trial.params)
        try:
            self._train_and_tell(trial, label, failures, display)
        except (LeaseLostError, UpdateFinishedTrialError):
            display.print(f"{label}: requeued for another process, since this one did not renew its lease; going on.")
        except OSError as error:
            # A full or missing disk would fail every further trial: stop; the same command continues later.
            raise UserError(f"{label} in {self.folder}: {error}. The same command continues the study.") from error
        self._lease.release(trial)

    def _train_and_tell(self, trial: Trial, label: str, failures: Failures, display: Display) -> None:
        try:
            if trial.user_attrs.get("retries", 0) > self.file.max_retry:
                raise RuntimeError(f"its process died {self.file.max_retry + 1} times")
            # Two trials may have drawn the same setting: the second one waits, and finds the results.
            while waits_for_another(self._trials(TrialState.RUNNING), trial, self._lease):
                self._lease.check(trial)
                self._lease.extend(trial)
                time.sleep(POLL_SECONDS)
            check = self._check([trial])
            seeds = trial_seeds(self.file, trial)
            values = [self._train_at(trial, seed, failures, check, display) for seed in seeds]
        except optuna.TrialPruned as pruned:
            display.print(f"{label}: {pruned}")
            self._tell(trial, state=TrialState.PRUNED)
        except (LeaseLostError, UpdateFinishedTrialError, OSError, StudyChangedError):
            raise
        except Exception as error:  # whatever error a setting causes, the others go on
            if not isinstance(error, TrainingError):  # it may be that the images are gone
                self.identity.require_still(*self.identity.own_images())
            failure = describe_error(error)
            trial.set_user_attr("failure", failure)
            display.print(f"{label}: failed: {failure}")
            self._tell(trial, state=TrialState.FAIL)
        else:
            self._tell(trial, sum(values) / len(values))

    def _tell(self, trial: Trial, value: float | None = None, state: TrialState | None = None) -> None:
        """Tell Optuna a trial's result; raise LeaseLostError if another process has finished the trial."""
        try:
            self.optuna.tell(trial, value, state)
        except ValueError:
            if trial.number in {running.number for running in self._trials(TrialState.RUNNING)}:
                raise
            raise LeaseLostError(f"trial {trial.number}") from None

    def _train_at(self, trial: Trial, seed: int, failures: Failures, check: Callback, display: Display) -> float:
        """Return the monitored metric of the trial's setting at `seed`, from its result if there is one."""
        training = self._training(trial, seed)
        known = read_result(training.result_path)
        if known is not None:
            return known["metrics"][self.file.monitor]
        if training.key in failures:
            raise failures[training.key]
        self._prepare(training.setting, seed)
        first = seed == self.file.seeds[0]
        pruning = [Pruning(trial, self.file.monitor)] if first and self.file.pruner is not None else []
        result = train(self.command_line, training, [TrainingProgress(display, training.name), check, *pruning])
        display.finish_training(training.result_line(result, self.file.monitor))
        return result["metrics"][self.file.monitor]

    def label(self, setting: Setting, seed: int | None = None) -> str:
        """Return the setting's name, with its arm if the study has several, and with a trial's own seed."""
        return setting.label(several_arms=len(self.file.arms) > 1) + ("" if seed is None else f" seed={seed}")

    def _trial_label(self, params: dict[str, Any]) -> str:
        return self.label(setting_from_parameters(params), params.get("seed"))

    def show_best(self, display: Display) -> None:
        """Show the best setting so far, and the number of trainings."""
        self.trials.read()
        if (best := self.trials.best()) is not None:
            display.best = f"{best[1]:.4f} ({self.label(self.trials.setting(best[0]))})"
        display.total = self.trials.total()

    def failures(self) -> list[tuple[str, str]]:
        """Return label and error of each failed trial."""
        failed = [trial for trial in self._trials(TrialState.FAIL) if "failure" in trial.user_attrs]
        return [(self._trial_label(trial.params), trial.user_attrs["failure"]) for trial in failed]

    def _keep_best(self, display: Display, at_end: bool = False) -> None:
        """Drop the checkpoints of what is not the best and cannot become it; at the end those of other processes, too.

        A setting that lacks seeds may still become the best.
        """
        if at_end:
            # Listed first, so that a folder that another process makes meanwhile is not among them.
            self._folders.clear()
            for folder in checkpoint_folders(self.folder):
                self._folders.setdefault((folder.parts[-3], int(folder.parts[-2].split("-")[1])), set()).add(folder)
        self.show_best(display)
        if self.file.keep == "all":
            return
        for key in self.trials.losers(self._folders):
            drop_checkpoints(self._folders.pop(key), lambda *_: False)
        if at_end and self.file.tunes_each_seed:  # of equal ones, and of several attempts, that which is reported
            # Results after trials: a training that ends in between is in one of them.
            runs = {result.get("run", "") for result in self.file.replicates(read_results(self.folder))}
            over = [folder for key in self._folders if self.trials.is_over(*key) for folder in self._folders[key]]
            drop_checkpoints(over, lambda setting_hash, run: f"runs/{setting_hash}/{run}" in runs)
