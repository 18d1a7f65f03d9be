"""Reports of studies with thousands of trainings, and of data with many classes."""

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losslab.report import summarise, summarise_folder, write_report
from losslab.report.image_spread import image_draws, metrics_of_draws
from losslab.report.page import MOST_COMPARED, page_content
from losslab.report.predictions import LARGEST, MOST_CLASSES, confusion, shown_predictions
from losslab.report.records import Predictions
from losslab.report.statistics import COLUMNS, max_t
from losslab.report.tables import choices_table
from losslab.study import StudyFile, count_results, read_results

GAMMA = "model.init_args.loss.init_args.gamma"
LR = "model.init_args.optimizer.init_args.lr"


def many_results(template: dict[str, Any], settings: int, seeds: int, keys: list[str]) -> list[dict[str, Any]]:
    """Results of one arm at `settings` gammas and `seeds` seeds, with random numbers for the keys."""
    drawn = np.random.default_rng(0).uniform(0.8, 0.9, (settings, seeds, len(keys)))
    return [
        template
        | {"label": f"gamma={gamma}", "setting": {"arm": "focal", "values": {GAMMA: gamma}}, "order": gamma}
        | {"setting_hash": f"{gamma:012x}", "seed": seed, "run": f"runs/{gamma:012x}/seed-{seed}"}
        | {"metrics": dict(zip(keys, drawn[gamma, seed].tolist(), strict=True))}
        for gamma in range(settings)
        for seed in range(seeds)
    ]


def many_trainings(small: Path, folder: Path, settings: int, seeds: int) -> Path:
    """A study like `small`, with results and folders of many trainings; one of each setting has a configuration."""
    first = read_results(small)[0]
    record = json.loads((small / "study.json").read_text())
    record["declared"] |= {"seeds": list(range(seeds)), "baseline": {"arm": "focal", GAMMA: 0}}
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(record))
    for result in many_results(first, settings, seeds, [*first["metrics"]]):
        path = folder / "results" / result["setting_hash"] / f"{result['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
        run = folder / result["run"]
        run.mkdir(parents=True)
        for name in ("manifest.json", "metrics.csv", "predictions.npz", "config.yaml"):
            if name != "config.yaml" or result["seed"] == 0:
                (run / name).hardlink_to(small / first["run"] / name)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The JSON files that have been read, in order."""
    found: list[Path] = []
    text = Path.read_text

    def note(path: Path, *args: Any, **options: Any) -> str:
        if path.suffix == ".json":
            found.append(path)
        return text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", note)
    return found


def test_a_report_reads_each_result_once_and_the_count_of_results_reads_none(
    gamma_study: Path, tmp_path: Path, reads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = many_trainings(gamma_study, tmp_path / "runs" / "many", settings=12, seeds=2)
    reads.clear()
    assert count_results(folder) == 24
    assert not reads
    write_report(folder)
    of_results = [path for path in reads if folder / "results" in path.parents]
    assert len(of_results) == len({*of_results}) == 24


@pytest.mark.slow
def test_ten_thousand_results_are_reported_with_a_page_of_the_best_settings(
    gamma_study: Path, tmp_path: Path, reads: list[Path]
) -> None:
    """10,000 settings at one seed, as a long search has: what was quadratic took minutes."""
    folder = many_trainings(gamma_study, tmp_path / "runs" / "many", settings=10_000, seeds=1)
    reads.clear()
    write_report(folder)
    of_results = [path for path in reads if folder / "results" in path.parents]
    assert len(of_results) == len({*of_results}) == 10_000
    assert len(reads) < 10_200  # with the manifests of the settings that are shown
    assert (folder / "report.html").stat().st_size < 12_000_000
    assert f"Sections 3 and 4 show {MOST_COMPARED} of 10000 settings" in (folder / "report.html").read_text()
    summary, results = summarise_folder(folder)
    for setting, result in zip(summary.tried[::1000], results[::1000], strict=True):
        assert setting.values["val/f1/macro"] == [result["metrics"]["val/f1/macro"]]
    best = max(results, key=lambda result: result["metrics"]["val/f1/macro"])
    assert summary.best.setting_hash == best["setting_hash"]


def test_what_is_tuned_is_compared_within_a_candidate_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls for a table of choices grow with the settings, not with their square."""
    calls: list[int] = []
    candidate = StudyFile.candidate

    def count(study: StudyFile, setting: Any) -> dict[str, Any]:
        calls.append(1)
        return candidate(study, setting)

    lists: dict[str, Any] = {LR: [0.001, 0.002, 0.004]}
    study = StudyFile("", {"focal": {}}, [0, 1], {GAMMA: list(range(40))}, lists, monitor="val/acc", family=["val/acc"])
    template = {"data_name": "digits", "class_counts": {}}
    results = []
    for rate, result in enumerate(many_results(template, 40, 2, ["val/acc"]) * 3):
        result = copy.deepcopy(result)
        result["setting"]["values"][LR] = lists[LR][rate // 80]
        result["setting_hash"] += str(rate // 80)
        result["metrics"]["val/acc"] += 0.01 * (rate // 80)
        results.append(result)
    summary = summarise("many", results, study)
    monkeypatch.setattr(StudyFile, "candidate", count)
    table = choices_table(summary)
    assert table is not None
    assert [row[1:] for row in table.rows] == [["lr", "0.004*", "0.004*", "0.004"]] * 40
    assert len(calls) <= 4 * len(results)


@pytest.mark.parametrize("seeds", [6, 13])
def test_the_comparisons_of_a_large_family_are_those_of_all_columns_at_once(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, (seeds, 90))
    whole = max_t(differences.copy())
    monkeypatch.setattr("losslab.report.statistics.COLUMNS", 7)
    in_blocks = max_t(differences.copy())
    assert COLUMNS > 90
    for one, other in zip(whole, in_blocks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_page_of_a_study_of_many_settings_compares_the_baseline_and_the_best(
    gamma_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, results = summarise_folder(gamma_study)
    assert page_content(gamma_study, summary, results, [])["tabled"] == 3
    monkeypatch.setattr("losslab.report.page.MOST_COMPARED", 2)
    page = page_content(gamma_study, summary, results, [])
    best = next(setting for setting in summary.ranked if setting is not summary.baseline)
    assert page["tabled"] == 2
    assert [*page["verdicts"]["rows"]] == [best.label]
    assert [row[0] for row in page["by_class"].rows] == [best.label]
    assert len(page["precision_recall"][0].table.rows) == 2


def test_of_many_classes_those_with_the_most_mistakes_are_drawn() -> None:
    count = 3 * MOST_CLASSES
    labels = np.arange(count).repeat(4)
    called = labels.copy()
    called[: 4 * MOST_CLASSES : 2] = (called[: 4 * MOST_CLASSES : 2] + 1) % MOST_CLASSES  # among the first ones only
    names = [f"class {c}" for c in range(count)]
    figure = confusion({"a": Predictions(np.eye(count, dtype=np.float32)[None, called], labels)}, names, None)
    assert figure.traces[0]["x"] == names[:MOST_CLASSES]
    assert np.shape(figure.traces[0]["z"]) == (MOST_CLASSES, MOST_CLASSES)
    assert figure.traces[0]["z"][0][1] == 2
    assert f"Drawn are the {MOST_CLASSES} of {count} classes" in figure.caption


def test_the_page_of_many_classes_shows_those_that_differ_most(
    gamma_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, results = summarise_folder(gamma_study)
    monkeypatch.setattr("losslab.report.page.MOST_CLASSES", 3)
    page = page_content(gamma_study, summary, results, [])
    spreads = {
        name: np.ptp([setting.mean_sd(f"val/recall/{name}")[0] for setting in summary.settings])
        for name in summary.settings[0].classes
    }
    widest = sorted(sorted(spreads, key=lambda name: -spreads[name])[:3])
    assert page["precision_recall"][0].panels == ["macro", *(f"class {name}" for name in widest)]
    assert len(page["by_class"].columns) == 1 + 2 * 3


def test_predictions_that_are_too_large_to_be_read_at_once_are_shown_of_one_seed(
    gamma_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, _ = summarise_folder(gamma_study)
    monkeypatch.setattr("losslab.report.predictions.share_images", lambda *_: True)
    assert LARGEST > 1e9
    every = shown_predictions(gamma_study, summary.settings)
    monkeypatch.setattr("losslab.report.predictions.LARGEST", 1)
    one = shown_predictions(gamma_study, summary.settings)
    assert all(len(given.logits) == 1 for given in one.predictions.values())
    assert "Of seed 0 alone, since the predictions of all seeds are too large" in one.text
    assert "too large" not in every.text


def test_the_memory_of_the_draws_of_images_grows_with_the_classes_and_not_with_their_square() -> None:
    count, images = 300, 900
    labels, predicted = np.random.default_rng(0).integers(0, count, (2, images))
    draws = image_draws(images)
    tracemalloc.start()
    found = metrics_of_draws(labels, predicted, draws, list(map(str, range(count))), {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # (C, C, B) would be 720 MB
    for name in ("7", "299"):
        is_class = draws[labels == int(name)].sum(axis=0)
        right = draws[(labels == int(name)) & (predicted == labels)].sum(axis=0)
        np.testing.assert_allclose(found[f"recall/{name}"], right / np.maximum(is_class, 1))
