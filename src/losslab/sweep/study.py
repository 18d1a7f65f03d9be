"""The study's loop: ask Optuna for a setting, train it at each seed, tell; and take up what a dead process left."""

from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from lightning.pytorch import Callback
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from losslab.errors import UserError
from losslab.report.results import read_result
from losslab.run.command_line import CommandLine
from losslab.run.config import Config
from losslab.run.interruption import Interrupted
from losslab.sweep.display import Display
from losslab.sweep.journal import repair_journal
from losslab.sweep.owner import is_dead, this_process
from losslab.sweep.populations import Failures, Populations
from losslab.sweep.setting import Setting, grid_settings, parameters, setting_of, suggest, take_setting
from losslab.sweep.study_file import StudyFile, pruner_of, sampler_of
from losslab.sweep.training import Pruning, Training, drop_checkpoints, train

MAX_RETRY = 3
"""How often a setting whose process died is run again before it counts as failed."""


class Study:
    """A study in its folder: what Optuna knows of it, and the loop that finishes it.

    Args:
        study: the study file.
        folder: runs/<study>.
        command_line: parses and builds the settings.
        base: the resolved experiment that the settings start from.
    """

    def __init__(self, study: StudyFile, folder: Path, command_line: CommandLine, base: Config) -> None:
        self.file, self.folder, self.command_line, self.base = study, folder, command_line, base
        self._lock = FileLock(folder / "lock")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._lock:
            try:
                self.optuna = optuna.create_study(
                    study_name=folder.name,
                    storage=self._storage(),
                    direction=study.direction,
                    sampler=sampler_of(study),
                    pruner=pruner_of(study),
                    load_if_exists=True,
                )
            except Exception as error:  # of Optuna or of the database's driver: whichever it is, the study cannot begin
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"the study's storage cannot be opened: {reason}") from error
            if self._trials():
                # A seeded sampler would draw again what it drew before this process, or in another one.
                self.optuna.sampler.reseed_rng()
            if study.grid:
                # A process may have died in the middle of this: what is queued is not queued again.
                queued = [trial.user_attrs.get("queued") for trial in self._trials()]
                for setting in grid_settings(study):
                    if parameters(setting) not in queued:
                        self.optuna.enqueue_trial(parameters(setting), {"queued": parameters(setting)})

    def _storage(self) -> Any:
        if self.file.storage != "journal":
            return self.file.storage
        journal = self.folder / "journal.log"
        repair_journal(journal)
        return JournalStorage(JournalFileBackend(str(journal)))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def total_trainings(self) -> int:
        """Trainings that the study has; a search prunes some of them."""
        settings = len(grid_settings(self.file)) if self.file.grid else self.file.trials or 0
        return settings * len(self.file.seeds)

    def run(self, display: Display) -> None:
        """Run settings until none is left to do."""
        prunes = self.file.pruner is not None
        populations = Populations(
            self.command_line, self._take, self.file.population, self.file.monitor, prunes, display
        )
        at_once = max(1, populations.size // len(self.file.seeds))
        while trials := [trial for _ in range(at_once) if (trial := self._ask()) is not None]:
            failures = self._train_together(trials, populations) if populations.size > 1 else {}
            for trial in trials:
                self._run_trial(trial, failures, display)
            self._keep_best(display)
        self._keep_best(display)

    def _ask(self) -> Trial | None:
        """The next trial, marked as this process's; None when all are done or in other processes' hands."""
        with self._lock:
            self._take_up_lost()
            waiting = self._trials(TrialState.WAITING)
            if not waiting and (self.file.grid or self._spent() >= (self.file.trials or 0)):
                return None
            trial = self.optuna.ask()
            trial.set_user_attr("owner", this_process())
            return trial

    def _spent(self) -> int:
        """Trials that count: all but those whose process was lost, since their settings are queued again."""
        return sum(trial.state != TrialState.FAIL or "failure" in trial.user_attrs for trial in self._trials())

    def _take_up_lost(self) -> None:
        """Queue again what was stopped, or belongs to a process that is gone. Its finished seeds have their results.

        First queued, then told as failed: a process that dies in between leaves it to the next one, which sees by
        `retry_of` what is queued already.
        """
        retried = {trial.user_attrs.get("retry_of") for trial in self._trials()}
        for trial in self._trials(TrialState.RUNNING):
            if "stopped" in trial.user_attrs or is_dead(trial.user_attrs.get("owner")):
                queued = trial.user_attrs.get("queued") or trial.params
                if queued and trial.number not in retried:  # without parameters it died before it had a setting
                    # Stopped by its user, it is not to blame; killed, it may be killed again.
                    retries = trial.user_attrs.get("retries", 0) + ("stopped" not in trial.user_attrs)
                    attributes = {"queued": queued, "retries": retries, "retry_of": trial.number}
                    if "setting_hash" in trial.user_attrs:
                        attributes["setting_hash"] = trial.user_attrs["setting_hash"]
                    self.optuna.enqueue_trial(queued, attributes)
                self.optuna.tell(trial.number, state=TrialState.FAIL)

    def _train_together(self, trials: list[Trial], populations: Populations) -> Failures:
        """Train what these trials have in common; `_run_trial` finds the results, and trains what is left."""
        try:
            blameless = [trial for trial in trials if trial.user_attrs.get("retries", 0) <= MAX_RETRY]
            return populations.train([(t, [self._training(t, seed) for seed in self.file.seeds]) for t in blameless])
        except (Interrupted, KeyboardInterrupt):
            for trial in trials:
                trial.set_user_attr("stopped", True)  # the next call takes them up
            raise
        except OSError as error:
            raise UserError(f"in {self.folder}: {error}. The same command continues the study.") from error

    def _training(self, trial: Trial, seed: int) -> Training:
        setting = suggest(self.file, trial)
        setting_hash = take_setting(self.command_line, self.file, self.base, setting, seed)
        trial.set_user_attr("setting_hash", setting_hash)
        return Training(
            self.folder, setting, setting_hash, seed, self._order(trial.number, setting), self._label(setting)
        )

    def _take(self, training: Training) -> None:
        take_setting(self.command_line, self.file, self.base, training.setting, training.seed)

    def _run_trial(self, trial: Trial, failures: Failures, display: Display) -> None:
        """Train one setting at every seed, and tell Optuna the mean, or why there is none."""
        label = self._label(suggest(self.file, trial))
        try:
            if trial.user_attrs.get("retries", 0) > MAX_RETRY:
                raise RuntimeError(f"its process died {MAX_RETRY + 1} times")
            values = [
                self._train_at(trial, seed, failures, first=number == 0, display=display)
                for number, seed in enumerate(self.file.seeds)
            ]
        except optuna.TrialPruned as pruned:
            display.line(f"{label}: {pruned}")
            self.optuna.tell(trial, state=TrialState.PRUNED)
        except (Interrupted, KeyboardInterrupt):
            trial.set_user_attr("stopped", True)  # the next call takes it up
            raise
        except OSError as error:
            # A full or vanished disk would fail every trial that is left: stop, and let the same command go on later.
            raise UserError(f"{label} in {self.folder}: {error}. The same command continues the study.") from error
        except Exception as error:  # whatever a setting does to a training, the others go on
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            trial.set_user_attr("failure", reason)
            display.line(f"{label}: failed: {reason}")
            self.optuna.tell(trial, state=TrialState.FAIL)
        else:
            self.optuna.tell(trial, sum(values) / len(values))

    def _train_at(self, trial: Trial, seed: int, failures: Failures, first: bool, display: Display) -> float:
        """The monitored metric of the trial's setting at `seed`, from its result if there is one."""
        training = self._training(trial, seed)
        callbacks: list[Callback] = [display.training(training.name)]
        if first and self.file.pruner is not None:
            callbacks.append(Pruning(trial, self.file.monitor))
        # Two trials may have drawn the same setting: the second one waits, and finds the result.
        training.lock_path.parent.mkdir(exist_ok=True)
        with FileLock(training.lock_path):
            known = read_result(training.result_path)
            if known is None and (training.setting_hash, seed) in failures:
                raise failures[training.setting_hash, seed]
            result = known or train(self.command_line, training, callbacks)
        if known is None:
            display.training_ended(training.ended(result, self.file.monitor))
        return result["metrics"][self.file.monitor]

    def _label(self, setting: Setting) -> str:
        return setting.label(several_arms=len(self.file.arms) > 1)

    def _order(self, number: int, setting: Setting) -> int:
        """The place of a setting in tables: a grid's own order, else the order of the search."""
        return grid_settings(self.file).index(setting) if self.file.grid else number

    def best(self) -> FrozenTrial | None:
        """The finished trial with the best mean, or None."""
        finished = self._trials(TrialState.COMPLETE)
        sign = 1 if self.file.direction == "maximize" else -1
        return max(finished, key=lambda trial: sign * float(trial.value), default=None)  # type: ignore[arg-type]

    def failures(self) -> list[tuple[str, str]]:
        """Label and reason of each failed setting."""
        failed = [trial for trial in self._trials(TrialState.FAIL) if "failure" in trial.user_attrs]
        return [(self._label(setting_of(trial.params)), trial.user_attrs["failure"]) for trial in failed]

    def _keep_best(self, display: Display) -> None:
        best = self.best()
        if best is not None:
            display.best = f"{best.value:.4f} ({self._label(setting_of(best.params))})"
        if self.file.keep == "best":
            # What is being trained, or will be again, may still become the best.
            open_trials = self._trials(TrialState.RUNNING, TrialState.WAITING)
            kept = [best, *open_trials] if best is not None else open_trials
            drop_checkpoints(self.folder, {trial.user_attrs.get("setting_hash", "") for trial in kept})
