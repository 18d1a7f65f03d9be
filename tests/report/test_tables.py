"""The summary on the terminal, and summary.csv."""

import csv
from pathlib import Path

import pytest

from losslab.report import escape_markdown, show_summary, summarise
from losslab.report.tables import markdown, means_table, verdict_table
from losslab.study import StudyFile

SCORES = {0: [0.90, 0.92, 0.91], 2: [0.93, 0.91, 0.92]}


def test_table_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"val/{m}/{c}" for m in ("precision", "recall") for c in ("macro", "[cat]", "dog")]
    results = [
        {
            "label": f"gamma={gamma}", "order": gamma, "seed": seed, "setting_hash": str(gamma), "data_name": "pets",
            "setting": {"arm": "focal", "values": {"gamma": gamma}},
            "metrics": dict.fromkeys([*keys, "val/f1/macro", "val/ece"], score),
        }
        for gamma, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]  # fmt: skip
    study = StudyFile("", {}, [0, 1, 2], baseline={"arm": "focal", "gamma": 0})
    show_summary(summarise("pets", results, study), tmp_path)
    shown = capsys.readouterr().out
    assert "validation split of pets, mean and sd over 3 seeds, at one learning rate" in shown
    assert "91.00±1.00" in shown
    assert "[cat]" in shown  # a name is no markup
    assert "minus gamma=0, in points, family of 3 comparisons" in shown
    assert "No verdict below 6 paired seeds; there are 3." in shown
    heading, *rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert heading.startswith("# ")
    table = list(csv.DictReader(rows))
    assert float(table[1]["val/recall/dog mean"]) == pytest.approx(0.92)
    assert float(table[1]["val/recall/dog sd"]) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("metric", "title", "css"),
    [("loss", "loss, own units", "worse"), ("ece", "ECE", "worse"), ("acc", "accuracy", "better")],
)
def test_more_of_a_loss_is_marked_as_worse_and_is_not_in_percent(metric: str, title: str, css: str) -> None:
    scores = {0: [0.1, 0.12, 0.11, 0.1, 0.13, 0.12], 2: [0.4, 0.421, 0.41, 0.402, 0.43, 0.42]}
    results = [
        {
            "label": f"gamma={gamma}", "order": gamma, "seed": seed, "setting_hash": str(gamma), "data_name": "pets",
            "setting": {"arm": "focal", "values": {"gamma": gamma}}, "metrics": {f"val/{metric}": score},
        }
        for gamma, by_seed in scores.items()
        for seed, score in enumerate(by_seed)
    ]  # fmt: skip
    study = StudyFile("", {}, [0, 1, 2, 3, 4, 5], monitor=f"val/{metric}", baseline={"arm": "focal", "gamma": 0})
    summary = summarise("pets", results, study)
    assert summary.family is not None
    table = verdict_table(summary.family)
    assert table is not None
    assert table["columns"] == [title]
    (cell,) = table["rows"]["gamma=2"]
    assert (cell["word"], cell["css"]) == ("higher", css)
    text = markdown(summary)
    share = metric != "loss"
    assert ("+30.05 [" in cell["interval"], "+0.301 [" in cell["interval"]) == (share, not share)
    assert ("| 41.38±" in text, "| 0.4138±" in text) == (share, not share)
    assert title in means_table(summary, summary.settings).columns
    assert means_table(summary, summary.settings, ", %").columns[2] == (f"{title}, %" if share else title)


def test_names_are_no_markup() -> None:
    assert escape_markdown("<b>|`x`_*\n#") == "&lt;b&gt;\\|\\`x\\`\\_\\* \\#"
