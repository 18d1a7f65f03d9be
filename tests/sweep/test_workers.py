"""`--workers`: several processes do what one does, and a parent that outlives them, or not."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from small_studies import GRID, GRID_PLANNED, trained

from losslab.cli import main
from losslab.study import read_results
from losslab.sweep.command import without_options
from losslab.sweep.workers import Workers, worker_environment

SWEEP = ["sweep", "--config", "study.yaml", "--trainer.max_epochs", "4"]


@pytest.fixture
def parent(tiny_mlp: list[str], own_folder: Path, repository: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `losslab sweep --workers 2` in a process of its own."""
    (own_folder / "study.yaml").write_text(GRID)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        path = f"{repository / 'src'}{os.pathsep}{repository / 'tests'}"
        command = [sys.executable, "-m", "losslab", *SWEEP, "--workers", "2"]
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # Where a shell runs the tests in the background, Ctrl-C is ignored, and so it would be here.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        for child in workers_of(process):
            child.kill()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("came", [None, signal.SIGINT], ids=["while it waits", "just before"])
def test_a_signal_ends_the_wait_for_a_database_whenever_it_comes(came: int | None) -> None:
    """A parent asks for the best setting, and a database that is away is waited for."""
    asked = []

    def wait(display: Any) -> None:
        asked.append(display)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    workers = Workers.__new__(Workers)
    workers._received, workers._study = came, SimpleNamespace(show_best=wait)  # type: ignore[assignment]
    workers._show_best(None)  # type: ignore[arg-type]
    assert (len(asked), workers._received) == ((0, signal.SIGINT) if came else (1, signal.SIGTERM))


def workers_of(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(parent.pid).children()
    except psutil.NoSuchProcess:
        return []


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_the_parent_shows_what_came_out(
    parent: Callable[[], subprocess.Popen[str]],
) -> None:
    process = parent()
    wait_for(lambda: bool(read_results(Path("runs/study"))))
    victim = workers_of(process)[0]
    victim.kill()
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert trained("study") == GRID_PLANNED
    assert printed.count("died (SIGKILL; runs/study/workers/") == 1
    assert "started again" in printed
    assert printed.count("4 settings x 2 seeds = 8 trainings") == 1
    assert printed.count("runs/study/best.yaml:") == 1
    for gamma in (0, 1, 2, 3):
        for seed in (0, 1):
            assert sum(f"gamma={gamma} seed={seed}: val/f1/macro" in line for line in printed.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_stops_all_and_keeps_what_was_finished(
    parent: Callable[[], subprocess.Popen[str]],
) -> None:
    process = parent()
    wait_for(lambda: bool(read_results(Path("runs/study"))))
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "the same command goes on from here" in printed
    assert not any(worker.is_running() for worker in workers)
    assert main([*SWEEP, "--workers", "1"]) == 0
    assert trained("study") == GRID_PLANNED


@pytest.mark.slow
def test_when_the_parent_is_killed_its_workers_end_and_the_same_command_goes_on(
    parent: Callable[[], subprocess.Popen[str]],
) -> None:
    process = parent()
    wait_for(lambda: bool(read_results(Path("runs/study"))))
    workers = workers_of(process)
    process.kill()
    process.wait()
    assert main([*SWEEP, "--workers", "1"]) == 0  # joins them while they finish what they have in hand
    assert trained("study") == GRID_PLANNED
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


@pytest.mark.slow
def test_a_second_terminal_joins_with_the_same_command(parent: Callable[[], subprocess.Popen[str]]) -> None:
    first, second = parent(), parent()
    for process in (first, second):
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed
        assert printed.count("runs/study/best.yaml:") == 1
    assert trained("study") == GRID_PLANNED
    assert len(list(Path("runs/study/workers").glob("*.log"))) == 4


@pytest.mark.slow
def test_a_setting_that_kills_its_process_is_given_up_and_the_others_are_trained(
    parent: Callable[[], subprocess.Popen[str]], own_folder: Path
) -> None:
    (own_folder / "deadly_loss.py").write_text(
        "import os\n"
        "from losslab.losses import FocalLoss\n"
        "class Deadly(FocalLoss):\n"
        "    def forward(self, logits, target):\n"
        "        if self.gamma == 1 and len(logits) == 20:  # not in the check before the first training\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return super().forward(logits, target)\n"
    )
    deadly = GRID.replace("losslab.losses.FocalLoss", "deadly_loss.Deadly") + "max_retry: 1\n"
    (own_folder / "study.yaml").write_text(deadly)
    process = parent()
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert printed.count("died (SIGKILL;") == 4
    for seed in (0, 1):
        assert f"gamma=1 seed={seed} failed: RuntimeError: its process died 2 times" in printed
    assert trained("study") == Counter({key: n for key, n in GRID_PLANNED.items() if key[0] != 1})


def test_a_mistake_that_no_restart_mends_is_told_once(
    tiny_mlp: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "study.yaml").write_text(GRID)
    assert main([*SWEEP, "--workers", "0"]) == 2
    assert "--workers must be >= 1, got 0" in capsys.readouterr().err
    (own_folder / "study.yaml").write_text(GRID.replace("[0, 1, 2, 3]", "[0, -1]"))
    assert main([*SWEEP, "--workers", "2"]) == 2
    assert "gamma must be >= 0" in capsys.readouterr().err
    assert not Path("runs/study/workers").exists()


def test_workers_share_the_gpus_or_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert worker_environment(0, 3, gpus=0) == {"OMP_NUM_THREADS": "2"}
    assert worker_environment(0, 9, gpus=0) == {"OMP_NUM_THREADS": "1"}
    assert [worker_environment(n, 4, gpus=2)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environment(1, 2, gpus=2) == {"CUDA_VISIBLE_DEVICES": "7"}


def test_a_workers_command_line_has_no_storage_that_everybody_could_read() -> None:
    tokens = ["--storage", "postgresql://a:b@c/d", "--config", "x.yaml", "--workers=2", "--seeds", "0", "1"]
    assert without_options(tokens, "--workers", "--storage") == ["--config", "x.yaml", "--seeds", "0", "1"]


def test_a_task_of_the_job_array_runs_the_study_with_the_databases_storage(own_folder: Path, repository: Path) -> None:
    (own_folder / "bin").mkdir()
    srun = own_folder / "bin" / "srun"
    srun.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS threads: $*"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "4"}
    script = ["bash", str(repository / "sweeps" / "slurm.sbatch")]
    done = subprocess.run(
        [*script, "sweeps/gamma.yaml", "postgresql://host/db", "--seeds", "0", "1"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    command = ".venv/bin/losslab sweep --config sweeps/gamma.yaml --storage postgresql://host/db --seeds 0 1"
    assert done.stdout == f"4 threads: --ntasks=1 {command}\n"
    refused = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "usage: sbatch sweeps/slurm.sbatch" in refused.stderr
