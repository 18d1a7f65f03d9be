"""The summary says what the results say, and no more."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from losslab.report.study_summary import show_summary, summarise

GAMMA = "model.loss.gamma"


@dataclass
class Study:
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    monitor: str = "val/f1/macro"
    direction: str = "maximize"
    grid: dict[str, list[Any]] = field(default_factory=lambda: {GAMMA: [0, 2]})
    baseline: dict[str, Any] | None = field(default_factory=lambda: {"arm": "focal", GAMMA: 0})
    family: list[str] = field(default_factory=lambda: ["val/f1/macro"])


def results(scores: dict[float, list[float]]) -> list[dict[str, Any]]:
    def metrics(score: float) -> dict[str, float]:
        keys = [f"{m}/{c}" for m in ("precision", "recall") for c in ("macro", "cat", "dog")]
        return {f"val/{key}": score for key in [*keys, "f1/macro", "acc", "ece"]}

    return [
        {
            "label": f"gamma={gamma}",
            "order": order,
            "seed": seed,
            "setting": {"arm": "focal", "values": {GAMMA: gamma}},
            "setting_hash": str(gamma),
            "metrics": metrics(score),
            "data_name": "pets",
        }
        for order, (gamma, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]


def test_an_unresolved_difference_leaves_the_baseline_in_place() -> None:
    summary = summarise(results({0: [0.90, 0.92, 0.91], 2: [0.93, 0.91, 0.92]}), Study())
    assert summary.best.label == "gamma=2"
    assert "gamma=2 minus gamma=0 in val/f1/macro: +1.00 [" in summary.sentence
    assert "not resolved: nothing is shown" in summary.sentence
    assert summary.chosen.label == "gamma=0"


def test_a_resolved_difference_changes_the_choice() -> None:
    summary = summarise(results({0: [0.90, 0.92, 0.91], 2: [0.95, 0.971, 0.96]}), Study())
    assert summary.sentence.endswith(": resolved.")
    assert summary.chosen.label == "gamma=2"


def test_a_baseline_that_is_best_is_said_to_be() -> None:
    summary = summarise(results({0: [0.95, 0.96, 0.97], 2: [0.90, 0.91, 0.92]}), Study())
    assert summary.sentence == "No setting has a better mean val/f1/macro than gamma=0, the baseline."
    assert summary.chosen.label == "gamma=0"


def test_a_setting_without_all_seeds_is_not_chosen() -> None:
    summary = summarise(results({0: [0.90, 0.91, 0.92], 2: [0.99]}), Study())
    assert summary.best.label == "gamma=0"


def test_partial_settings_are_not_compared() -> None:
    summary = summarise(results({0: [0.90, 0.91], 2: [0.95]}), Study())
    assert summary.sentence == "No setting has a result for each of its seeds: there is nothing to compare yet."
    assert summary.difference is None


def test_less_can_be_better() -> None:
    summary = summarise(results({0: [0.5, 0.6, 0.7], 2: [0.1, 0.2, 0.3]}), Study(direction="minimize"))
    assert summary.best.label == "gamma=2"


def test_a_search_without_a_baseline_says_that_its_best_is_optimistic() -> None:
    summary = summarise(results({0: [0.90, 0.91, 0.92], 2: [0.99, 0.98, 0.97]}), Study(baseline=None))
    assert summary.sentence.startswith("Best of 2 on validation: gamma=2, val/f1/macro 98.00±1.00 % (n = 3).")
    assert summary.chosen is summary.best


def test_files_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_summary(results({0: [0.90, 0.92, 0.91], 2: [0.93, 0.91, 0.92]}), Study(), tmp_path)
    shown = capsys.readouterr().out
    assert "validation split of pets, mean and sd over 3 seeds, at one learning rate" in shown
    assert "91.00±1.00" in shown
    heading, *rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert heading.startswith("# ")
    table = list(csv.DictReader(rows))
    assert float(table[1]["val/recall/dog mean"]) == pytest.approx(0.92)
    assert float(table[1]["val/recall/dog sd"]) == pytest.approx(0.01)
    page = (tmp_path / "precision_recall.html").read_text()
    assert all(text in page for text in ("macro mean", "class cat", "class dog", "gamma=2"))
    first = page
    show_summary(results({0: [0.90, 0.92, 0.91], 2: [0.93, 0.91, 0.92]}), Study(), tmp_path)
    assert (tmp_path / "precision_recall.html").read_text() == first  # the same results, the same bytes
