"""`losslab report` writes the same page from the same study folder, and `losslab plot-loss` that of a loss."""

import base64
import csv
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from losslab.cli import main
from losslab.report import show_summary, summarise_folder
from losslab.study import read_results


def copied(study: Path, tmp_path: Path) -> Path:
    """A copy of the study's folder to change."""
    copy = tmp_path / "runs" / study.name
    shutil.copytree(study, copy)
    return copy


def figures(page: str) -> dict[str, Any]:
    """The figures' contents, by name."""
    return {m[1]: json.loads(m[2]) for m in re.finditer(r'id="figure-([a-z-]+)">(.*?)</script>', page)}


class Elements(HTMLParser):
    """All elements with their attributes, and the text of the page without its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def test_a_sweep_ends_with_its_page_and_the_command_writes_the_same_bytes(gamma_study: Path, tmp_path: Path) -> None:
    first = {name: (gamma_study / name).read_bytes() for name in ("report.html", "report.md")}
    copy = copied(gamma_study, tmp_path)
    for name in first:
        (copy / name).unlink()
    assert main(["report", "runs/gamma"]) == 0
    assert {name: (copy / name).read_bytes() for name in first} == first


def test_the_page_has_every_section_and_is_small(gamma_study: Path) -> None:
    page = (gamma_study / "report.html").read_text()
    assert len(page) < 8e6
    sections = [attributes["id"] for tag, attributes in parsed(page).elements if tag == "section"]
    assert sections == [
        "run", "confirmation", "verdicts", "precision", "loss", "confusion", "mistakes", "calibration", "learning",
        "trials", "provenance",
    ]  # fmt: skip
    expected = {"precision-recall", "plane", "loss", "confusion", "calibration", "learning", "history"}
    assert expected <= set(figures(page))
    assert "Primary endpoints: a family of 6 comparisons" in page  # two settings x precision, recall and monitored F1


def test_only_the_pages_own_scripts_may_run(hostile_study: Path) -> None:
    elements = parsed((hostile_study / "report.html").read_text())
    (policy,) = [a["content"] for tag, a in elements.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    kinds = [a.get("type") for tag, a in elements.elements if tag == "script"]
    code = [script for script, kind in zip(elements.scripts, kinds, strict=True) if kind != "application/json"]
    digests = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code}
    assert digests == set(re.findall(r"'sha256-([^']+)'", policy))
    assert len(code) == 2
    for _, attributes in elements.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("src") or "").startswith("http")
        assert not (attributes.get("href") or "").startswith("http")


def test_hostile_names_are_text(hostile_study: Path) -> None:
    page = (hostile_study / "report.html").read_text()
    tags = {tag for tag, _ in parsed(page).elements}
    assert not tags & {"b", "i", "iframe", "h4"}
    assert page.count("<h1>") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "{{7*7}}" in page
    markdown = (hostile_study / "report.md").read_text()
    assert "<img" not in markdown
    assert "<script" not in markdown


def test_the_figures_hold_the_results(gamma_study: Path) -> None:
    results = read_results(gamma_study)
    traces = figures((gamma_study / "report.html").read_text())["precision-recall"]["traces"]
    lines = [t for t in traces if t.get("fill") is None and t["name"] == "recall" and t["xaxis"] == "x5"]
    (recall_3,) = lines  # panel 0 is macro, so panel 4 is class 3
    by_gamma = [[r["metrics"]["val/recall/3"] for r in results if r["label"] == f"gamma={g}"] for g in (0, 2, 5)]
    assert recall_3["x"] == [0, 2, 5]
    assert recall_3["y"] == pytest.approx([sum(values) / 6 for values in by_gamma], abs=1e-5)


def test_page_and_markdown_have_the_same_numbers(gamma_study: Path) -> None:
    page, markdown = ((gamma_study / name).read_text() for name in ("report.html", "report.md"))
    intervals = re.findall(r"[+−]\d+\.\d\d \\\[[+−]\d+\.\d\d, [+−]\d+\.\d\d\\\]", markdown)
    assert len(intervals) >= 6
    for text in intervals:
        assert text.replace("\\", "") in page
    assert "Conditional on these evaluation images" in markdown


def test_pruned_and_failed_trials_are_listed_with_reasons(search_study: Path) -> None:
    page = (search_study / "report.html").read_text()
    assert "pruned after epoch 0, at 0." in page
    assert "RuntimeError: out of memory &lt;b&gt;(simulated)" in page
    drawn = figures(page)
    assert {"history", "importance", "parallel"} <= set(drawn)
    assert "PedAnovaImportanceEvaluator" in page
    assert {trace["type"] for content in drawn.values() for trace in content["traces"]} <= {"scatter", "bar", "heatmap"}


def test_other_images_than_the_runs_are_not_shown(gamma_study: Path, tmp_path: Path) -> None:
    copy = copied(gamma_study, tmp_path)
    for manifest in copy.glob("runs/*/*/manifest.json"):
        content = json.loads(manifest.read_text())
        content["hashes"]["train"] = "0" * 64
        manifest.write_text(json.dumps(content))
    assert main(["report", "runs/gamma"]) == 0
    page = (copy / "report.html").read_text()
    assert "The images are not shown: " in page
    assert "these are other images" in page
    assert "gallery-data" not in page.split("<footer>")[0].replace('read("gallery-data")', "")


def test_without_runs_and_journal_the_page_says_what_is_missing(gamma_study: Path, tmp_path: Path) -> None:
    copy = copied(gamma_study, tmp_path)
    shutil.rmtree(copy / "runs")
    (copy / "journal.log").unlink()
    assert main(["report", "runs/gamma"]) == 0
    page = (copy / "report.html").read_text()
    assert "predictions are not there" in page
    assert "record of the trials cannot be read" in page
    assert "precision-recall" in figures(page)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "runs/nothing"], "runs/nothing holds no study"),
        (["report", "runs/gamma", "--wide"], "unrecognized arguments: --wide"),
    ],
)
def test_a_report_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_study_without_results_or_with_a_half_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "runs" / "half"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text('{"study": {}')
    assert main(["report", "runs/half"]) == 2
    assert "study.json cannot be read" in capsys.readouterr().err
    keys = {"seeds": [0], "monitor": "val/acc", "direction": "maximize", "baseline": None, "family": []}
    (folder / "study.json").write_text(json.dumps({"declared": keys | {"storage": "journal"}}))
    assert main(["report", "runs/half"]) == 2
    assert "has no result yet" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, -1])
def test_kept_results_beside_new_ones_are_shown_without_classes(
    place: int, gamma_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copied(gamma_study, tmp_path)
    kept = sorted({(result["order"], result["setting_hash"]) for result in read_results(study)})[place][1]
    for file in (study / "results" / kept).glob("*.json"):
        result = json.loads(file.read_text())
        result["metrics"] = {k: v for k, v in result["metrics"].items() if k.count("/") < 2 or k.endswith("/macro")}
        file.write_text(json.dumps(result))
        (study / result["run"] / "predictions.npz").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs/gamma"]) == 0
    whole, page = (figures((folder / "report.html").read_text()) for folder in (gamma_study, study))
    assert whole.keys() - page.keys()
    summary, _ = summarise_folder(study)
    assert [setting.classes for setting in summary.settings] == [[], [], []]
    show_summary(summary, study)
    table = list(csv.DictReader((study / "summary.csv").read_text().splitlines()[1:]))
    assert [row["val/recall/7 mean"] != "" for row in table].count(True) == 2
    assert all(float(row["val/recall/macro mean"]) > 0 for row in table)


def test_values_of_one_argument_are_a_curve_each() -> None:
    assert main(["plot-loss", "FocalLoss", "--gamma", "0", "1", "2", "5"]) == 0
    page = Path("runs/plot-loss/FocalLoss.html").read_text()
    content = json.loads(re.search(r'id="figure-loss">(.*?)</script>', page)[1])  # type: ignore[index]
    assert {trace["name"] for trace in content["traces"]} == {f"gamma = {g}" for g in (0, 1, 2, 5)}
    assert "losslab plot-loss FocalLoss --gamma 0 1 2 5" in page


def test_losses_of_others_and_a_file_of_ones_own() -> None:
    Path("loss_to_plot.py").write_text("import torch\nclass Mine(torch.nn.CrossEntropyLoss):\n    pass\n")
    assert main(["plot-loss", "loss_to_plot.Mine", "--label_smoothing", "0.1", "--out", "mine.html"]) == 0
    assert "label_smoothing = 0.1" in Path("mine.html").read_text()
    assert main(["plot-loss", "DiceLoss"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FocaLoss"], "there is no loss 'FocaLoss'; did you mean FocalLoss?"),
        (["nowhere.Loss"], "there is no module 'nowhere'"),
        (["FocalLoss", "--gama", "1"], "FocalLoss has no argument 'gama'; did you mean gamma?"),
        (["FocalLoss", "--gamma", "-1"], "gamma must be >= 0"),
        (["FocalLoss", "2"], "unexpected '2'"),
        (["FocalLoss", "--gamma"], "--gamma needs a value"),
        (["TverskyLoss", "--alpha", "1", "2", "--beta", "1", "2"], "one argument may have several values"),
        (["LogitAdjustedLoss"], "needs the classes' frequencies"),
        (["dice_threshold"], "dice_threshold is not a class"),
    ],
)
def test_a_mistake_in_plot_loss_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot-loss", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot-loss"]) == main(["plot-loss", "--help"]) == 0
    assert "losslab plot-loss FocalLoss --gamma 0 1 2 5" in capsys.readouterr().out
