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
from small_studies import GAMMA_PATH, LR, TUNED, TUNED_EXPERIMENT, comparable_results, trained, trials

from losslab.cli import main
from losslab.study import read_declared, read_results

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
    assert Counter(trial.state for trial in trials("kills"))[TrialState.COMPLETE] == 12


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
    assert Counter(trial.state for trial in trials("kills")) == {TrialState.COMPLETE: 12, TrialState.FAIL: 2}


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
    assert Counter(trial.state for trial in trials("kills")) == {TrialState.COMPLETE: 12, TrialState.FAIL: 1}


def test_a_slow_trial_is_recorded_as_failed_after_its_time(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (grid / "kills.yaml").write_text(GRID + "time_limit: 0.001\n")
    assert main(SWEEP) == 2
    reasons = {trial.user_attrs["failure"] for trial in trials("kills")}
    assert reasons == {"TimeLimitError: the trial took longer than the 0.001 seconds that time_limit allows"}
    assert "failed: TimeLimitError" in capsys.readouterr().out
    assert main([*SWEEP, "--name", "together", "--population", "4"]) == 2
    # Four trainings in each population: they share the sum.
    assert all("the 0.004 seconds" in trial.user_attrs["failure"] for trial in trials("together"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--population", "16")], ids=["alone", "population"])
def test_killed_in_each_phase_a_study_whose_seeds_tune_ends_as_an_undisturbed_one(
    own_folder: Path, options: tuple[str, ...]
) -> None:
    (own_folder / "tiny.yaml").write_text(TUNED_EXPERIMENT)
    (own_folder / "kills.yaml").write_text(TUNED + "max_retry: 100\n")
    sweep = [*SWEEP, *options]
    assert main([*sweep, "--name", "undisturbed"]) == 0
    phases = [phase for phase in PHASES if phase != "between two seeds"]  # a trial has one
    counts = {"inside a step": 3, "inside the journal append": 90, "writing a result": 5, "between result and tell": 10}
    for phase in phases:
        # The network of a population takes its steps otherwise, and its checkpoints are written at its end.
        if not options or phase != "inside a step":
            process = background.start(own_folder, sweep, kill_at, phase, counts.get(phase, 1))
            process.join(120)
            assert process.exitcode == -signal.SIGKILL, f"{phase} was not reached"
    assert main(sweep) == 0
    kept = []
    for name in ("kills", "undisturbed"):
        results = read_results(Path("runs", name))
        bests = read_declared(Path("runs", name)).replicates(results)
        runs = {result["run"] for result in bests}
        checkpoints = Path("runs", name).glob("runs/*/*/checkpoints/last.ckpt")
        assert {str(path.parent.parent.relative_to(Path("runs", name))) for path in checkpoints} == runs
        kept.append({(r["label"], r["seed"], r["tuned"][LR], r["metrics"]["val/f1/macro"]) for r in bests})
        assert len(results) == len({(r["setting_hash"], r["seed"]) for r in results})
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_two_processes_share_a_study_whose_seeds_tune_and_train_each_value_once(own_folder: Path) -> None:
    (own_folder / "tiny.yaml").write_text(TUNED_EXPERIMENT)
    (own_folder / "kills.yaml").write_text(TUNED)
    processes = [background.start(own_folder, SWEEP) for _ in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0, Path("output.txt").read_text()
    results, found = read_results(Path("runs/kills")), trials("kills")
    assert len({trial.user_attrs["owner"]["pid"] for trial in found}) == 2
    keys = Counter((trial.user_attrs["setting_hash"], trial.params["seed"]) for trial in found)
    assert keys == {(result["setting_hash"], result["seed"]): 1 for result in results}
    assert len(results) > 18
    runs = {result["run"] for result in read_declared(Path("runs/kills")).replicates(results)}
    checkpoints = Path("runs/kills").glob("runs/*/*/checkpoints/last.ckpt")
    assert {str(path.parent.parent.relative_to(Path("runs/kills"))) for path in checkpoints} == runs
