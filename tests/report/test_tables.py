"""The summary on the terminal, and summary.csv."""

import csv
from pathlib import Path

import pytest

from losslab.report import escape_markdown, show_summary, summarise
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


def test_names_are_no_markup() -> None:
    assert escape_markdown("<b>|`x`_*\n#") == "&lt;b&gt;\\|\\`x\\`\\_\\* \\#"
