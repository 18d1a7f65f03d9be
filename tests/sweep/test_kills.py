"""Killed at every phase of a sweep, the same command ends with what an undisturbed one has, exactly once."""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import background
import pytest
from kill_moments import PHASES, kill_at, short_leases
from optuna.trial import TrialState
from small_studies import GAMMA_PATH, comparable_results, trained, trials

from losslab.cli import main

GRID = f"""\
experiment: tiny.yaml
arms: {{focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}}}
grid: {{{GAMMA_PATH}: [0, 0.5, 1, 1.5, 2, 3]}}
seeds: [0, 1]
"""
SEARCH = f"""\
experiment: tiny.yaml
arms: {{focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}}}
space:
  {GAMMA_PATH}: {{class_path: optuna.distributions.FloatDistribution, init_args: {{low: 0.0, high: 5.0}}}}
trials: 12
seeds: [0, 1]
"""
SWEEP = ["sweep", "--config", "kills.yaml", "--trainer.enable_model_summary", "false"]


@pytest.fixture
def grid(tiny_mlp: list[str], own_folder: Path) -> Path:
    (own_folder / "kills.yaml").write_text(GRID)
    return own_folder


PLANNED = Counter((gamma, seed) for gamma in (0, 0.5, 1, 1.5, 2, 3) for seed in (0, 1))


def kill(folder: Path, phase: str, count: int) -> None:
    process = background.start(folder, SWEEP, kill_at, phase, count)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{phase} was not reached {count} times"


def hits(folder: Path) -> Counter[str]:
    return Counter((folder / "killed.txt").read_text().splitlines())


def test_killed_once_in_each_phase_a_grid_ends_as_an_undisturbed_one(grid: Path) -> None:
    """A setting is killed at most three times: it would else count as failed."""
    assert main([*SWEEP, "--name", "undisturbed"]) == 0
    for phase in PHASES:
        kill(grid, phase, {"inside a step": 3, "inside the journal append": 9}.get(phase, 1))
    assert hits(grid) == dict.fromkeys(PHASES, 1)
    assert len(comparable_results("kills")) < 12
    assert main(SWEEP) == 0
    assert trained("kills") == PLANNED
    assert comparable_results("kills") == comparable_results("undisturbed")
    assert Counter(trial.state for trial in trials("kills"))[TrialState.COMPLETE] == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "search"])
def test_killed_three_times_in_each_phase_at_random(grid: Path, kind: str) -> None:
    (grid / "kills.yaml").write_text((GRID if kind == "grid" else SEARCH) + "max_retry: 100\n")
    draw = random.Random(0)
    moments = [phase for phase in PHASES for _ in range(3)]
    draw.shuffle(moments)
    # Those that finish trainings last, so that the study is not done before all were reached.
    moments.sort(key=lambda phase: phase in ("between two seeds", "between result and tell"))
    for phase in moments:
        most = {"inside a step": 12, "inside the journal append": 12}.get(phase, 1)
        kill(grid, phase, draw.randint(1, most))
    assert hits(grid) == dict.fromkeys(PHASES, 3)
    assert main(SWEEP) == 0
    if kind == "grid":
        assert trained("kills") == PLANNED
        assert main([*SWEEP, "--name", "undisturbed"]) == 0
        assert comparable_results("kills") == comparable_results("undisturbed")
    else:
        complete = [trial for trial in trials("kills") if trial.state == TrialState.COMPLETE]
        assert len(complete) == 12
        done = Counter(result["setting_hash"] for result in comparable_results("kills"))
        assert done == dict.fromkeys({trial.user_attrs["setting_hash"] for trial in complete}, 2)


def test_two_processes_share_a_study_and_both_killed_at_once_lose_nothing(grid: Path) -> None:
    longer = [*SWEEP, "--trainer.max_epochs", "6"]
    first, second = (background.start(grid, longer) for _ in range(2))

    def both_train() -> bool:
        journal = Path("runs/kills/journal.log")
        if not journal.exists() or len(comparable_results("kills")) < 2:
            return False
        owners = {
            t.user_attrs["owner"]["pid"]
            for t in trials("kills")
            if t.state == TrialState.RUNNING and "owner" in t.user_attrs
        }
        return owners == {first.pid, second.pid}

    background.wait_for(both_train, first)
    for process in (first, second):
        os.kill(process.pid or 0, signal.SIGKILL)
    for process in (first, second):
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    assert main(longer) == 0
    assert trained("kills") == PLANNED
    assert Counter(trial.state for trial in trials("kills")) == {TrialState.COMPLETE: 6, TrialState.FAIL: 2}


def test_a_process_that_was_stopped_and_continued_loses_its_trial_and_goes_on(grid: Path) -> None:
    stopped = background.start(grid, SWEEP, short_leases, 2.0, 5)
    background.wait_for(lambda: Path("stopped.txt").exists(), stopped)
    other = background.start(grid, SWEEP, short_leases, 2.0)
    other.join(150)
    assert other.exitcode == 0
    assert trained("kills") == PLANNED
    written = {file: file.stat().st_mtime_ns for file in Path("runs/kills/results").rglob("*.json")}
    os.kill(stopped.pid or 0, signal.SIGCONT)
    stopped.join(150)
    assert stopped.exitcode == 0
    assert "requeued for another process" in Path("output.txt").read_text()
    assert {file: file.stat().st_mtime_ns for file in Path("runs/kills/results").rglob("*.json")} == written
    assert Counter(trial.state for trial in trials("kills")) == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}


def test_a_slow_trial_is_recorded_as_failed_after_its_time(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (grid / "kills.yaml").write_text(GRID + "time_limit: 0.001\n")
    assert main(SWEEP) == 2
    reasons = {trial.user_attrs["failure"] for trial in trials("kills")}
    assert reasons == {"TimeLimitError: the trial took longer than the 0.001 seconds that time_limit allows"}
    assert "failed: TimeLimitError" in capsys.readouterr().out
    assert main([*SWEEP, "--name", "together", "--population", "4"]) == 2
    # Two trials with all their seeds in each population: they share the sum.
    assert all("the 0.002 seconds" in trial.user_attrs["failure"] for trial in trials("together"))
