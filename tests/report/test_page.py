"""The page of a study says which images and seeds its figures are of, and what each seed chose."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_studies

from losslab.cli import main
from losslab.report import read_confirmation, read_confirmations, read_trials, summarise_folder
from losslab.report.page import page_content
from losslab.report.precision_recall import varied_number
from losslab.report.records import TEST_PREDICTIONS, provenance_table
from losslab.report.tables import choices_table
from losslab.run import read_predictions
from losslab.study import read_declared, read_results


def content(study: Path) -> dict[str, Any]:
    return page_content(study, *summarise_folder(study), read_confirmations(study))


def text_of(study: Path) -> str:
    return html.unescape((study / "report.html").read_text())


def test_before_a_confirmation_images_are_those_of_one_seed_which_is_named(gamma_study: Path) -> None:
    """Labels do not tell the splits of tiny digits apart, which are sorted by class."""
    page = text_of(gamma_study)
    assert page.count("Of seed 0 alone, since each seed has validation images of its own.") == 3
    data = json.loads(re.search(r'id="gallery-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert set(data["seeds"].values()) == {1}
    assert data["split"] == "validation"
    assert "Each seed has a split of its own" in page
    assert "Mean over the seeds after each epoch, each on validation images of its own." in page


@pytest.mark.slow
def test_after_a_confirmation_images_are_test_images_of_all_seeds(tuned_study: Path) -> None:
    page = text_of(tuned_study)
    assert page.count("Of the test images, which all 2 seeds of the confirmation share") == 3
    data = json.loads(re.search(r'id="gallery-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["split"] == "test"
    confirmation = read_confirmation(tuned_study / "confirm")
    assert confirmation is not None
    for setting in confirmation.summary.settings:
        read = [read_predictions(tuned_study / "confirm" / run / TEST_PREDICTIONS) for run in setting.runs]
        wrong = {int(i) for logits, labels in read for i in (logits.argmax(1) != labels).nonzero()[0]}
        assert {mistake[0] for mistake in data["settings"][setting.label]} <= wrong
        assert data["seeds"][setting.label] == len(read) == 2


@pytest.mark.slow
def test_showing_test_images_is_said_and_counts_as_no_read(tuned_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tuned_study.parents[1])
    reads = Path("runs/test_reads.jsonl").read_text()
    assert reads.count("\n") == 4
    assert main(["report", "runs/tuned"]) == 0
    assert Path("runs/test_reads.jsonl").read_text() == reads
    assert "does not count as a further read of the test images" in text_of(tuned_study)


@pytest.mark.slow
def test_the_table_of_choices_has_each_seeds_best_value_and_marks_the_ends(tuned_study: Path) -> None:
    summary, results = summarise_folder(tuned_study)
    table = choices_table(summary)
    assert table is not None
    assert table.columns == ["setting", "of", "seed 0", "seed 1", "median"]
    for setting, row in zip(summary.settings, table.rows, strict=True):
        for seed, cell in zip(setting.seeds, row[2:4], strict=True):
            tried = [r for r in results if r["seed"] == seed and r["setting"]["arm"] == setting.arm]
            best = max(tried, key=lambda r: r["metrics"]["val/f1/macro"])["setting"]["values"][small_studies.LR]
            values = {r["setting"]["values"][small_studies.LR] for r in tried}
            assert float(cell.rstrip("*")) == pytest.approx(best, rel=1e-3)
            assert cell.endswith("*") == (best in (min(values), max(values)))
    assert "What each seed chose" in text_of(tuned_study)
    assert "| setting | of | median | range | at an end |" in (tuned_study / "report.md").read_text()


def test_provenance_has_the_split_of_each_seed(gamma_study: Path) -> None:
    results = read_results(gamma_study)
    rows = dict(provenance_table(gamma_study, results).rows)
    of_seed = {result["seed"]: result["hashes"]["split"][:12] for result in results}
    assert rows["split (SHA-256)"] == ", ".join(f"seed {seed}: {of_seed[seed]}" for seed in range(6))
    assert len({*of_seed.values()}) == 6
    one = [result for result in results if result["seed"] == 0]
    assert dict(provenance_table(gamma_study, one).rows)["split (SHA-256)"] == one[0]["hashes"]["split"]


def test_heading_and_provenance_say_that_validation_is_like_training(gamma_study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gamma"
    shutil.copytree(gamma_study, copy, ignore=shutil.ignore_patterns("runs"))
    assert "like training" not in summarise_folder(copy)[0].heading
    record = json.loads((copy / "study.json").read_text())
    record["experiment"]["data"]["init_args"]["validation"] = "like_training"
    (copy / "study.json").write_text(json.dumps(record))
    summary, results = summarise_folder(copy)
    assert summary.heading.endswith(", validation like training")
    assert dict(provenance_table(copy, results).rows)["validation images"].startswith("like training")


@pytest.mark.slow
def test_a_seed_is_no_parameter_that_matters_and_trials_of_seeds_have_no_best_so_far(tuned_study: Path) -> None:
    read = read_trials(tuned_study, read_declared(tuned_study))
    assert "seed" not in read.importance
    assert sum(read.importance.values()) == pytest.approx(1)
    history, *_ = content(tuned_study)["trials"]
    assert [trace["name"] for trace in history.traces] == ["complete"]
    assert "a setting at one seed" in history.caption


@pytest.mark.slow
def test_what_is_tuned_is_no_axis(tuned_study: Path) -> None:
    """Tuned by the study, a value is part of its settings; in a search it is an axis."""
    summary, _ = summarise_folder(tuned_study)
    summary.settings = [summary.tried[0], summary.tried[-1]]
    assert varied_number(summary.settings) == small_studies.LR
    figure, plane = page_content(tuned_study, summary, read_results(tuned_study), [])["precision_recall"]
    assert figure.title == "Precision and recall of each setting"
    assert {trace["mode"] for trace in plane.traces} <= {"markers", "markers+text"}


@pytest.mark.slow
def test_a_confirmed_page_says_that_nothing_was_trained_again_and_what_is_assumed(tuned_study: Path) -> None:
    page = text_of(tuned_study)
    assert "nothing was trained again" in page
    assert "fresh seeds" not in page.split('<section id="confirmation"')[1].split('<section id="verdicts"')[0]
    for term in ("Symmetry", "Paired, exchangeable seeds", "One data set", "Validation", "docs/statistics.md"):
        assert term in page
