"""The study's loop: ask Optuna for a setting, train it at each seed, tell; alone or beside other processes."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from filelock import FileLock
from lightning.pytorch import Callback
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.errors import UserError
from losslab.run import CommandLine, Config
from losslab.study import (
    Setting,
    StudyFile,
    configure,
    grid_settings,
    read_result,
    setting_from_parameters,
    suggest_setting,
    tuning_extensions,
)
from losslab.sweep.display import Display
from losslab.sweep.ownership import (
    LEASE_SECONDS,
    Lease,
    LeaseCheck,
    LeaseLostError,
    may_meet_another,
    spent,
    take_up_lost,
    waits_for_another,
)
from losslab.sweep.populations import Failures, Populations
from losslab.sweep.storage import open_study, queue, queued_settings
from losslab.sweep.training import Pruning, TimeLimit, Training, checkpoint_folders, drop_checkpoints, train

POLL_SECONDS = 1.0
"""How often a process that has nothing to do looks whether another one has finished, or died."""


class Study:
    """A study in its folder: what Optuna knows of it, and the loop that finishes it.

    Args:
        study: the study file.
        folder: runs/<study>.
        command_line: parses and builds the settings.
        base: the resolved experiment that the settings start from.
        wait: whether a database that does not answer is waited for, since it is known to be one.
    """

    def __init__(
        self, study: StudyFile, folder: Path, command_line: CommandLine, base: Config, wait: bool = False
    ) -> None:
        self.file, self.folder, self.command_line, self.base = study, folder, command_line, base
        self._lock = FileLock(folder / "lock")
        with self._lock:
            self.optuna, storage = open_study(study, folder, wait)
        self._lease = Lease(storage)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def total_trainings(self) -> int:
        """Trainings that the study has so far; a search prunes some of them."""
        settings = self.file.trials or 0 if self.file.is_search else len(queued_settings(self.optuna))
        return settings * len(self.file.seeds)

    def run(self, display: Display, stop: Callable[[], bool] = lambda: False) -> None:
        """Run settings until the study is done, or `stop` says so; wait for what other processes have in hand."""
        prunes = self.file.pruner is not None
        populations = Populations(
            self.command_line, self._take, self.file.population, self.file.monitor, prunes, display
        )
        at_once = max(1, populations.size // len(self.file.seeds))
        if self.file.time_limit is not None:
            # Twice: as a population that fails and then one by one. Whatever takes longer hangs, and is given away.
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
                        display.line("The rest is in other processes' hands; waiting for them.")
                    time.sleep(POLL_SECONDS)
                else:
                    break
                waits = not trials
            self._keep_best(display)

    def is_done(self) -> bool:
        """Whether no trial is left to do or in any process's hands."""
        return not self._left() and not self._trials(TrialState.RUNNING)

    def _ask_for(self, most: int) -> list[Trial]:
        """The next trials, marked as this process's; none when all are done or in other processes' hands."""
        trials: list[Trial] = []
        with self._lock:
            take_up_lost(self.optuna, self._lease)
            if self.file.tune and not self._trials(TrialState.WAITING, TrialState.RUNNING):
                queue(self.optuna, tuning_extensions(self.file, self._trials(TrialState.COMPLETE), self._trials()))
            while len(trials) < most and self._left():
                trial = self.optuna.ask()
                self._lease.take(trial)
                # Known before another process can ask, so that it sees a setting that is in training already.
                with contextlib.suppress(UserError):  # it fails with this reason when it is to be trained
                    self._training(trial, self.file.seeds[0])
                trials.append(trial)
        return sorted(trials, key=lambda trial: trial.number)

    def _left(self) -> bool:
        if self._trials(TrialState.WAITING):
            return True
        return self.file.is_search and spent(self._trials()) < (self.file.trials or 0)

    def _train_together(self, trials: list[Trial], populations: Populations) -> Failures:
        """Train what these trials have in common; `_run_trial` finds the results, and trains what is left."""
        known = self._trials()
        fit = [
            trial
            for trial in trials
            if trial.user_attrs.get("retries", 0) <= self.file.max_retry
            and not self._waits(known, trial, besides={trial.number for trial in trials})
        ]
        callbacks = [LeaseCheck(self._lease, fit), TimeLimit(self.file.time_limit, len(fit))]
        try:
            return populations.train(
                [(trial, [self._training(trial, seed) for seed in self.file.seeds]) for trial in fit], callbacks
            )
        except (LeaseLostError, UpdateFinishedTrialError):
            return {}  # of one trial or more; `_run_trial` sees of which
        except OSError as error:
            raise UserError(f"in {self.folder}: {error}. The same command continues the study.") from error

    def _waits(self, known: list[FrozenTrial], trial: Trial, besides: set[int]) -> bool:
        others = [other for other in known if other.number not in besides]
        return waits_for_another(others, trial, self._lease)

    def _training(self, trial: Trial, seed: int) -> Training:
        setting = suggest_setting(self.file, trial)
        setting_hash = configure(self.command_line, self.file, self.base, setting, seed)
        if trial.user_attrs.get("setting_hash") != setting_hash:
            trial.set_user_attr("setting_hash", setting_hash)
        # What still lives, and lost this setting, must not write into the same folder.
        attempt = f"-trial-{trial.number}" if may_meet_another(self._trials(), trial) else ""
        order, label = self._order(trial.number, setting), self._label(setting)
        return Training(self.folder, setting, setting_hash, seed, order, label, attempt, self.file.stage)

    def _take(self, training: Training) -> None:
        configure(self.command_line, self.file, self.base, training.setting, training.seed)

    def _run_trial(self, trial: Trial, failures: Failures, display: Display) -> None:
        """Train one setting at every seed, and tell Optuna the mean, or why there is none."""
        label = self._label(suggest_setting(self.file, trial))
        try:
            self._train_and_tell(trial, label, failures, display)
        except (LeaseLostError, UpdateFinishedTrialError):
            display.line(f"{label}: given to another process, since this one had not answered for long; going on.")
        except OSError as error:
            # A full or vanished disk would fail every trial that is left: stop, and let the same command go on later.
            raise UserError(f"{label} in {self.folder}: {error}. The same command continues the study.") from error
        self._lease.end(trial)

    def _train_and_tell(self, trial: Trial, label: str, failures: Failures, display: Display) -> None:
        try:
            if trial.user_attrs.get("retries", 0) > self.file.max_retry:
                raise RuntimeError(f"its process died {self.file.max_retry + 1} times")
            # Two trials may have drawn the same setting: the second one waits, and finds the results.
            while self._waits(self._trials(), trial, besides=set()):
                self._lease.check(trial)
                self._lease.extend(trial)
                time.sleep(POLL_SECONDS)
            watch = [LeaseCheck(self._lease, [trial]), TimeLimit(self.file.time_limit)]
            values = [
                self._train_at(trial, seed, failures, watch, first=number == 0, display=display)
                for number, seed in enumerate(self.file.seeds)
            ]
        except optuna.TrialPruned as pruned:
            display.line(f"{label}: {pruned}")
            self._tell(trial, state=TrialState.PRUNED)
        except (LeaseLostError, UpdateFinishedTrialError, OSError):
            raise
        except Exception as error:  # whatever a setting does to a training, the others go on
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            trial.set_user_attr("failure", why)
            display.line(f"{label}: failed: {why}")
            self._tell(trial, state=TrialState.FAIL)
        else:
            self._tell(trial, sum(values) / len(values))

    def _tell(self, trial: Trial, value: float | None = None, state: TrialState | None = None) -> None:
        """Tell Optuna; a trial that is told already was given to another process."""
        try:
            self.optuna.tell(trial, value, state)
        except ValueError:
            if trial.number in {finished.number for finished in self._trials(TrialState.RUNNING)}:
                raise
            raise LeaseLostError(f"trial {trial.number}") from None

    def _train_at(
        self, trial: Trial, seed: int, failures: Failures, watch: list[Callback], first: bool, display: Display
    ) -> float:
        """The monitored metric of the trial's setting at `seed`, from its result if there is one."""
        training = self._training(trial, seed)
        known = read_result(training.result_path)
        if known is not None:
            return known["metrics"][self.file.monitor]
        if (training.setting_hash, seed) in failures:
            raise failures[training.setting_hash, seed]
        callbacks = [display.training(training.name), *watch]
        if first and self.file.pruner is not None:
            callbacks.append(Pruning(trial, self.file.monitor))
        result = train(self.command_line, training, callbacks)
        display.training_ended(training.ended(result, self.file.monitor))
        return result["metrics"][self.file.monitor]

    def _label(self, setting: Setting) -> str:
        return setting.label(several_arms=len(self.file.arms) > 1)

    def _order(self, number: int, setting: Setting) -> int:
        """The place of a setting in tables: a grid's own order, else the order in which they were tried."""
        settings = [] if self.file.is_search else grid_settings(self.file)
        return settings.index(setting) if setting in settings else number

    def best(self) -> FrozenTrial | None:
        """The finished trial with the best mean, or None."""
        finished = self._trials(TrialState.COMPLETE)
        sign = 1 if self.file.direction == "maximize" else -1
        return max(finished, key=lambda trial: sign * float(trial.value), default=None)  # type: ignore[arg-type]

    def show_best(self, display: Display) -> FrozenTrial | None:
        """Let the display name the best setting so far, and return its trial."""
        best = self.best()
        if best is not None:
            display.best = f"{best.value:.4f} ({self._label(setting_from_parameters(best.params))})"
        display.total = self.total_trainings()
        return best

    def failures(self) -> list[tuple[str, str]]:
        """Label and reason of each failed setting."""
        failed = [trial for trial in self._trials(TrialState.FAIL) if "failure" in trial.user_attrs]
        return [(self._label(setting_from_parameters(trial.params)), trial.user_attrs["failure"]) for trial in failed]

    def _keep_best(self, display: Display) -> None:
        # Listed first: what another process begins after that is not among them.
        folders = checkpoint_folders(self.folder)
        best = self.show_best(display)
        if self.file.keep == "best":
            # What is being trained, or will be again, may still become the best.
            open_trials = self._trials(TrialState.RUNNING, TrialState.WAITING)
            kept = [best, *open_trials] if best is not None else open_trials
            drop_checkpoints(folders, {trial.user_attrs.get("setting_hash", "") for trial in kept})
