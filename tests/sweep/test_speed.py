"""How a study is trained follows from a few measured steps, from the machine, and from what is left to train."""

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from small_studies import GRID, GRID_PLANNED, trained
from tiny_digits import TinyDigits

from losslab.cli import main
from losslab.models import MLP
from losslab.run import Parts
from losslab.study import read_results
from losslab.sweep import speed
from losslab.sweep.speed import (
    MEASURED,
    ONE_BY_ONE,
    START_SECONDS,
    WARM_UP,
    Rates,
    Stopwatch,
    Way,
    choose_way,
    free_bytes,
    most_processes,
    seconds_by_way,
    steps_of_training,
    usable_cores,
)


@pytest.mark.parametrize(
    ("batch_size", "seconds", "steps"),
    [
        (4, 0.01, WARM_UP + MEASURED),
        (100, 0.01, 2),
        (4, 2.0, 3),
        (100, 2.0, 2),
        (200, 0.01, WARM_UP + MEASURED),  # of one step an epoch
        (200, 2.0, 3),
    ],
)
def test_it_leaves_the_first_steps_out_and_ends_when_it_knows(
    batch_size: int, seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which the first step takes 100 seconds longer than any other one."""
    clock = Stopwatch()
    trainer = Trainer(
        max_epochs=90, accelerator="cpu", callbacks=[clock], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    monkeypatch.setattr("losslab.sweep.speed.time.perf_counter", lambda: 100 + seconds * trainer.global_step)
    assert clock.measure(trainer, MLP(), TinyDigits(batch_size=batch_size)) == pytest.approx(seconds)
    assert trainer.global_step == steps


@pytest.mark.parametrize(
    ("rates", "processes", "steps", "best"),
    [
        (Rates(40, 32, 20, 16), 2, 10_000, Way(2, 1)),  # a CNN on two cores: each step fills one
        (Rates(40, 32, 20, 16), 1, 10_000, ONE_BY_ONE),  # there is no second core, or no memory for it
        (Rates(40, 32, 20, 16), 2, 1_000, ONE_BY_ONE),  # what is left takes 25 s: processes would start for 10
        (Rates(400, 380, 3_000, 16), 2, 10_000, Way(1, 16)),  # an MLP: overhead is shared
        (Rates(400, 380, 3_000, 12), 2, 10_000, Way(1, 12)),
        (Rates(400, 380, 3_000, 16), 16, 100_000, Way(16, 1)),
        (Rates(40, 30, 20, 16), 2, 10_000, Way(2, 1)),
        (Rates(40, 32, 0, 1), 2, 10_000, Way(2, 1)),  # it cannot form a population
        (Rates(0, 0, 50, 16), 2, 10_000, Way(1, 16)),
    ],
)
def test_the_quickest_way_is_chosen(rates: Rates, processes: int, steps: int, best: Way) -> None:
    seconds = seconds_by_way(rates, processes, steps)
    assert min(seconds, key=seconds.__getitem__) == best


@pytest.mark.parametrize(("steps_a_second", "together"), [(101.0, (900.0, 16)), (99.0, (0.0, 1))])
def test_a_population_is_measured_where_steps_are_short(
    steps_a_second: float, together: tuple[float, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_rate", lambda _, size: (steps_a_second, 1) if size == 1 else (900.0, size))
    rates = speed.measure(study(), 16, torch.get_num_threads())
    assert rates == Rates(steps_a_second, steps_a_second, *together)


def test_what_cannot_be_measured_is_no_way() -> None:
    assert seconds_by_way(Rates(0, 0, 0, 1), 8, 100) == {}
    assert seconds_by_way(Rates(10, 10, 0, 1), 1, 100) == {ONE_BY_ONE: 10}
    assert seconds_by_way(Rates(10, 10, 0, 1), 4, 100)[Way(4, 1)] == pytest.approx(START_SECONDS + 100 / 32)


@pytest.mark.parametrize(
    ("cores", "threads", "gigabytes", "trainings", "most"),
    [(2, 1, 30, 100, 2), (16, 1, 5.5, 100, 5), (16, 4, 30, 100, 4), (16, 1, 30, 3, 3), (2, 1, 0.3, 9, 1)],
)
def test_there_are_no_more_processes_than_cores_memory_and_trainings_allow(
    cores: int, threads: int, gigabytes: float, trainings: int, most: int
) -> None:
    assert most_processes(cores, threads, gigabytes * 1e9, trainings) == most


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "max_steps": 7}, 7),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 3, "limit_train_batches": 4}, 12),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 15),
    ],
)
def test_the_steps_of_a_training_are_known_before_it_begins(arguments: dict[str, Any], steps: int) -> None:
    data = TinyDigits(batch_size=20)
    data.setup("fit")  # 200 images
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
    assert steps_of_training(trainer, data) == steps


def study(population: int | str | None = None) -> Any:
    return SimpleNamespace(file=SimpleNamespace(population=population))


@pytest.fixture(scope="module")
def first() -> Parts:
    """A network of which an epoch has ten steps."""
    data = TinyDigits(batch_size=20)
    data.setup("fit")
    trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    return Parts(trainer, MLP(), data)


@pytest.mark.parametrize(
    ("population", "workers", "way"),
    [
        (None, 1, ONE_BY_ONE),
        (None, 4, Way(4, 1)),
        (1, "auto", ONE_BY_ONE),
        (12, "auto", Way(1, 12)),
        (12, 3, Way(3, 12)),
    ],
)
def test_given_numbers_are_obeyed_and_nothing_is_measured_or_said(
    population: int | None, workers: int | str, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_way(study(population), workers, None, 100) == way  # type: ignore[arg-type]
    assert choose_way(study("auto"), workers, None, 0).population == 1  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_of_little_that_is_left_nothing_is_measured(
    first: Parts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(speed, "measure")
    assert choose_way(study(), "auto", first, 8) == ONE_BY_ONE
    assert capsys.readouterr().out == "Little is left to train: one by one.\n"


@pytest.mark.parametrize(
    ("population", "workers", "rates", "way", "said"),
    [
        (None, "auto", Rates(1, 1, 30, 16), Way(1, 16), "Trained as populations of 16: its steps take about 8 s, aga"),
        ("auto", "auto", Rates(4, 3.8, 2, 16), Way(2, 1), "Trained by 2 processes: its steps take about 49 s, ag"),
        ("auto", 4, Rates(4, 3.8, 2, 16), Way(4, 1), "Trained one by one: its steps take about 60 s, against 120 s"),
        ("auto", 4, Rates(9, 8, 80, 16), Way(4, 16), "Trained as populations of 16: its steps take about 3 s, "),
        (None, "auto", Rates(0, 0, 0, 16), ONE_BY_ONE, "The steps of the first setting could not be measured: "),
    ],
)
def test_what_is_measured_decides_what_was_not_given(
    population: str | None, workers: int | str, rates: Rates, way: Way, said: str, first: Parts,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """240 steps are left, on two cores."""
    monkeypatch.setattr(speed, "measure", lambda *_: rates)
    monkeypatch.setattr(speed, "roughly_a_step", lambda _: 1.0)
    monkeypatch.setattr(speed, "most_processes", lambda *_: 2)
    assert choose_way(study(population), workers, first, 8) == way
    assert capsys.readouterr().out.startswith(said)


def test_a_study_that_goes_on_keeps_its_way_as_far_as_the_machine_carries_it(
    first: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(speed, "measure")
    monkeypatch.setattr(speed, "most_processes", lambda *_: 2)
    assert choose_way(study(), "auto", first, 8, [1, 16]) == Way(1, 16)
    assert choose_way(study("auto"), "auto", first, 8, [4, 1]) == Way(2, 1)
    assert choose_way(study(), 3, first, 8, [1, 16]) == Way(3, 16)
    assert choose_way(study(2), "auto", first, 8, [1, 16]) == Way(1, 2)


def test_a_container_may_use_what_its_control_group_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CONTAINER", tmp_path)
    monkeypatch.setattr(speed.os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(speed.psutil, "virtual_memory", lambda: SimpleNamespace(available=64e9))
    assert (usable_cores(), free_bytes()) == (64, 64e9)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (usable_cores(), free_bytes()) == (64, 64e9)
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    assert (usable_cores(), free_bytes()) == (2, 3e9)


def test_on_another_device_it_is_a_population(first: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")))
    assert choose_way(study(), "auto", first._replace(trainer=trainer), 8) == Way(1, 16)
    assert capsys.readouterr().out == "Trained as populations of up to 16 on the cuda device.\n"


@pytest.fixture
def sweep(tiny_mlp: list[str], own_folder: Path) -> list[str]:
    (own_folder / "study.yaml").write_text(GRID)
    return ["sweep", "--config", "study.yaml"]


def test_the_default_command_measures_says_what_it_chose_and_trains_so(
    sweep: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, measured = speed.measure, list[Rates]()

    def measure_and_decide(*arguments: Any) -> Rates:
        measured.append(measure(*arguments))
        return measured[0]._replace(together=math.inf)

    monkeypatch.setattr(speed, "measure", measure_and_decide)
    monkeypatch.setattr(speed, "roughly_a_step", lambda _: 1.0)
    assert main([*sweep, "--seeds", "0", "--trainer.max_epochs", "1"]) == 0
    (rates,) = measured
    assert min(rates[:3]) > 0
    assert rates.size == 4
    assert capsys.readouterr().out.count("Trained as populations of 4: its steps take about 0 s, against ") == 1
    assert [result["population"]["size"] for result in read_results(Path("runs/study"))] == [4] * 4


FAILS = """\
import torch
from losslab.models import MLP

class Fails(MLP):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images[:, :, :1])
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint}]", "Trained "),
        ("model: {class_path: fails.Fails}", "The steps of the first setting could not be measured: "),
    ],
    ids=["a ModelCheckpoint", "a network that fails"],
)
def test_what_cannot_be_measured_or_writes_files_neither_stops_a_study_nor_leaves_any(
    given: str, said: str, tiny_mlp: list[str], own_folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (own_folder / "fails.py").write_text(FAILS)
    good = "model.init_args.loss: {class_path: losslab.losses.DiceLoss}"
    (own_folder / "study.yaml").write_text(
        f"experiment: tiny.yaml\narms: {{own: {{{given}}}, good: {{{good}}}}}\n"
        "grid: {data.init_args.batch_size: [50]}\nseeds: [0]\n"
    )
    monkeypatch.setattr(speed, "START_SECONDS", 0.0)
    monkeypatch.setattr(speed, "most_processes", lambda *_: 1)
    before = {*own_folder.iterdir()}
    assert main(["sweep", "--config", "study.yaml", "--trainer.max_epochs", "1"]) == 0
    assert said in capsys.readouterr().out
    assert {each.name for each in {*own_folder.iterdir()} - before} <= {"runs", "__pycache__"}
    assert "good" in {result["setting"]["arm"] for result in read_results(Path("runs/study"))}


@pytest.mark.parametrize(
    "arm",
    ["model.init_args.optimizer: torch.optim.Adam", "model: losslab.models.MLP"],
)
@pytest.mark.usefixtures("tiny_mlp")
def test_a_class_path_alone_is_trained_in_a_population(arm: str, own_folder: Path) -> None:
    (own_folder / "study.yaml").write_text(
        f"experiment: tiny.yaml\narms: {{own: {{{arm}}}}}\ngrid: {{data.init_args.batch_size: [50]}}\nseeds: [0, 1]\n"
    )
    assert main(["sweep", "--config", "study.yaml", "--trainer.max_epochs", "1", "--population", "2"]) == 0
    assert [result["population"]["size"] for result in read_results(Path("runs/study"))] == [2, 2]


@pytest.mark.slow
def test_processes_are_started_where_they_are_quickest(
    sweep: list[str], repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository / "tests"))
    monkeypatch.setattr(speed, "measure", lambda *_: Rates(0.001, 1000.0, 0.001, 8))
    monkeypatch.setattr(speed, "roughly_a_step", lambda _: 1.0)
    monkeypatch.setattr(speed, "usable_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert main(sweep) == 0
    printed = capsys.readouterr().out
    assert "Trained by 2 processes: its steps take about 10 s, against " in printed
    assert trained("study") == GRID_PLANNED
    assert sum(f"[{place}] gamma=" in printed for place in (0, 1)) == 2
    assert os.listdir("runs/study/workers")
