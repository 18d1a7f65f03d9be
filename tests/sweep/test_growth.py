"""What a study does for its next training does not grow with the trainings that it has."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution, distribution_to_json
from optuna.storages import JournalStorage
from small_studies import EXPERIMENT, GAMMA_PATH

from losslab.run import CommandLine
from losslab.study import Setting, StudyFile, grid_settings, planned_trials, result_path
from losslab.sweep import study as study_module
from losslab.sweep.display import Display
from losslab.sweep.study import Study
from losslab.sweep.trials import Trials
from losslab.sweep.workers import Workers

BATCH = "data.init_args.batch_size"
LOSS = {"model.init_args.loss": {"class_path": "losslab.losses.FocalLoss"}}


def study_file(seeds: int) -> StudyFile:
    """40 settings."""
    grid = {GAMMA_PATH: [*range(8)], BATCH: [10, 20, 30, 40, 50]}
    return StudyFile("tiny.yaml", {"focal": LOSS}, [*range(seeds)], grid=grid, population=1)


def finished(folder: Path, file: StudyFile, without: int) -> None:
    """Write the journal and the results of a study, of which the last trainings are left."""
    (folder / "runs/grown").mkdir(parents=True)
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    choices: dict[str, Any] = {"arm": ["focal"], **file.grid}
    ranges = {name: CategoricalDistribution(values) for name, values in choices.items()}
    distributions = {name: distribution_to_json(each) for name, each in ranges.items()}
    distributions["seed"] = distribution_to_json(IntDistribution(0, 2**32 - 1))
    entries: list[dict[str, Any]] = [{"op_code": 0, "worker_id": "w", "study_name": "grown", "directions": [2]}]
    for planned in planned_trials(file)[: -without or None]:
        parameters = planned.parameters(file)
        setting_hash, score = hash_of(planned.setting), 0.5 + planned.setting.values[GAMMA_PATH] / 100
        params = {name: choices[name].index(value) for name, value in parameters.items() if name != "seed"}
        entries.append(
            {
                "op_code": 4, "worker_id": "w", "study_id": 0, "state": 1, "value": score, "values": None,
                "datetime_start": "2026-01-01T00:00:00+00:00", "datetime_complete": "2026-01-01T00:00:01+00:00",
                "params": params | {"seed": planned.seed}, "distributions": distributions, "system_attrs": {},
                "user_attrs": {"queued": parameters, "setting_hash": setting_hash}, "intermediate_values": {},
            }
        )  # fmt: skip
        path = result_path(folder / "runs/grown", setting_hash, planned.seed or 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "label": planned.setting.label(False), "order": 0, "seed": planned.seed, "setting_hash": setting_hash,
            "setting": {"arm": "focal", "values": planned.setting.values}, "metrics": {"val/f1/macro": score},
            "data_name": "tiny-digits", "hashes": {"train": "x"}, "code": {"losslab.models.MLP": "y"},
        }  # fmt: skip
        path.write_text(json.dumps(result))
    (folder / "runs/grown/journal.log").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def hash_of(setting: Setting) -> str:
    return hashlib.sha256(repr(setting).encode()).hexdigest()[:12]


@contextmanager
def counting(counts: Counter[str]) -> Iterator[None]:
    """Count what a study asks of the storage and of the disk."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (JournalStorage, "get_all_trials"), (os, "fsync"), (Path, "glob"), (Path, "read_text"),
            (study_module, "read_results"), (study_module, "read_result"), (Trials, "_note"),
        ):  # fmt: skip
            original = getattr(owner, name)

            def call(*arguments: Any, _original: Any = original, _name: str = name, **named: Any) -> Any:
                counts[_name] += 1
                return _original(*arguments, **named)

            patch.setattr(owner, name, call)
        yield


def rest_of(folder: Path, file: StudyFile, monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Continue a study with trainings that take no time; returns the counts: at the start, and for each training."""
    monkeypatch.chdir(folder)
    study = Study(file, Path("runs/grown"), CommandLine(["--config", "tiny.yaml"], "losslab sweep"))
    monkeypatch.setattr(study, "configure", lambda setting, seed: hash_of(setting))
    monkeypatch.setattr(study.identity, "require_same_code", lambda: None)
    monkeypatch.setattr(study.identity, "require_same_images", lambda *_: None)
    counts, found = Counter[str](), list[Counter[str]]()
    names: list[str] = []

    def train(_: Any, training: Any, callbacks: Any) -> dict[str, Any]:
        names.append(training.name)
        found.append(Counter(counts))
        counts.clear()
        return {"metrics": {"val/f1/macro": 0.1}, "seconds": 0.0}

    monkeypatch.setattr(study_module, "train", train)
    with counting(counts):
        study.open()
        found.append(Counter(counts))
        counts.clear()
        study.run(Display(0, 0))
    assert len({*names}) == len(names)
    assert study.is_done()
    return found


@pytest.mark.parametrize("trainings", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_next_training_costs_the_same_after_any_number_of_others(
    trainings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study_file(trainings // 40)
    finished(tmp_path, file, without=5)
    start, _, *others = rest_of(tmp_path, file, monkeypatch)
    assert start["fsync"] <= 2  # the five that were missing are queued at once
    assert start["read_result"] == start["read_results"] == start["glob"] == 0
    assert start["_note"] == trainings - 5  # each trial is looked at once
    assert len(others) == 4
    for counts in others:
        assert counts["get_all_trials"] <= 12
        assert counts["_note"] == 1
        assert counts["fsync"] <= 12
        assert counts["read_result"] == counts["read_text"] == 1  # whether it is there already
        assert counts["read_results"] == counts["glob"] == 0


@pytest.mark.parametrize("trainings", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_new_study_is_queued_by_one_append(trainings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = study_file(trainings // 40)
    finished(tmp_path, file, without=trainings)
    counts = Counter[str]()
    monkeypatch.chdir(tmp_path)
    study = Study(file, Path("runs/grown"), CommandLine(["--config", "tiny.yaml"], "losslab sweep"))
    with counting(counts):
        study.open()
    assert counts["fsync"] <= 2
    assert study.trials.total() == trainings
    assert [trial.user_attrs["queued"]["seed"] for trial in study.optuna.get_trials()[:41]] == [0] * 40 + [1]
    study.open()
    assert study.trials.total() == len(study.optuna.get_trials()) == trainings


def test_the_parent_of_workers_looks_for_results_when_they_have_said_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study_file(1)
    finished(tmp_path, file, without=1)
    workers = Workers.__new__(Workers)
    workers._study, workers._processes = SimpleNamespace(folder=tmp_path / "runs/grown"), []  # type: ignore[assignment]
    workers._logs, workers._read, workers._results = [tmp_path / "0.log"], [0], 39
    counts, shown = Counter[str](), list[int]()
    display: Any = SimpleNamespace(count_results=lambda number, _: shown.append(number), print=lambda _: None)
    with counting(counts):
        workers._show_output(display)
        (tmp_path / "0.log").write_text("gamma=1 seed=0: val/f1/macro 0.5\n")
        last = planned_trials(file)[-1]
        path = result_path(tmp_path / "runs/grown", hash_of(last.setting), 0)
        path.parent.mkdir()
        path.write_text("{}")
        for _ in range(3):
            workers._show_output(display)
    assert shown == [39, 40, 40, 40]
    assert counts["glob"] == 1
    assert counts["read_text"] == counts["read_result"] == 0


def test_the_settings_are_ordered_in_tables_as_in_the_file_at_every_seed() -> None:
    file = study_file(3)
    trials = Trials.__new__(Trials)
    trials._places = {each: place for place, each in enumerate(grid_settings(file))}
    trials._first = {}
    for place, setting in enumerate(grid_settings(file)):
        trial: Any = SimpleNamespace(user_attrs={"queued": {}}, number=99)
        assert trials.order(Setting(setting.arm, dict(reversed(setting.values.items()))), trial) == place


def test_a_population_takes_trainings_of_any_seed_that_may_be_one_and_divides_them_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gammas may be members of one, other batch sizes may not: 8 gammas at 3 seeds for each of five sizes."""
    file = study_file(3)
    finished(tmp_path, file, without=120)
    monkeypatch.chdir(tmp_path)
    study = Study(file, Path("runs/grown"), CommandLine(["--config", "tiny.yaml"], "losslab sweep"))
    monkeypatch.setattr(study, "configure", lambda setting, seed: hash_of(setting))
    study.open()
    queue = [(trial.number, trial.user_attrs["queued"]) for trial in study.optuna.get_trials()]
    with study._lease:
        for half in (slice(0, 12), slice(12, 24)):
            for size in file.grid[BATCH]:
                alike = [number for number, parameters in queue if parameters[BATCH] == size]
                assert [trial.number for trial in study._ask_for(16)] == alike[half]
        assert study._ask_for(16) == []
