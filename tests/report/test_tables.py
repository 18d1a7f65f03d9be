"""The summary on the terminal, and summary.csv."""

import csv
from pathlib import Path

import pytest

from losslab.report import escape_markdown, show_summary, summarise
from losslab.report.tables import choices_table, collapse_text, comparisons_table, markdown, means_table, verdict_table
from losslab.report.verdicts import Family, Verdict
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
    assert "No verdict on 3 comparisons below 7 paired seeds; there are 3." in shown
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


def verdict(setting: str, low: float, high: float, collapsed: int | None = 0, margin: float | None = None) -> Verdict:
    above = 12 if low > 0 else 0 if high < 0 else 7
    return Verdict(
        setting, "val/f1/macro", (low + high) / 2, 0.01, low, high, 0.01, 12, 14, 4, low, high, above, 12 - above,
        collapsed, 0, margin,
    )  # fmt: skip


def test_comparisons_have_better_seeds_collapses_and_what_is_declared_or_known() -> None:
    shown, alike = verdict("shown", 0.01, 0.02, 3), verdict("alike", -0.001, 0.002, margin=0.005)
    plain = comparisons_table(Family("base", ["val/f1/macro"], [shown], 12))
    assert plain.columns == ["setting", "metric", "difference", "verdict", "P(better)", "collapsed", "to be shown"]
    assert plain.rows == [["shown", "macro F1", "+1.50 [+1.00, +2.00]", "higher", "12/12: 74–100 %", "3/12", ""]]
    both = comparisons_table(Family("base", ["val/f1/macro"], [shown, alike], 12, {("shown", "val/f1/macro"): 0.0008}))
    assert both.columns[3:5] == ["± images", "margin"]
    assert [row[3:6] for row in both.rows] == [["0.08", "–", "higher"], ["–", "0.5", "alike"]]
    unknown = comparisons_table(Family("base", ["val/f1/macro"], [verdict("kept", 0.01, 0.02, None)], 12))
    assert unknown.rows[0][5] == "–"


def test_that_nothing_collapsed_is_said_with_what_it_excludes() -> None:
    of_two = Family("base", ["val/f1/macro"], [verdict("a", 0.01, 0.02, 3), verdict("b", 0.01, 0.02)], 12)
    limit = "setting collapsed at 0 of 12 seeds, which excludes only rates above 22 %."
    assert collapse_text(of_two) == f"Collapses (a class has recall 0): a at 3 of 12 seeds; any other {limit}"
    none = Family("base", ["val/f1/macro"], [verdict("b", 0.01, 0.02)], 12)
    assert collapse_text(none) == f"Collapses (a class has recall 0): each {limit}"
    assert collapse_text(Family("base", [], [verdict("kept", 0.01, 0.02, None)], 12)) == ""


@pytest.mark.parametrize(
    ("low", "high", "word", "css"),
    [
        (0.01, 0.02, "higher", "better"),
        (-0.02, -0.01, "lower", "worse"),
        (0.001, 0.004, "higher, by less than the margin", "better"),
        (-0.001, 0.004, "alike", "alike"),
        (-0.001, 0.02, "not shown", "none"),
    ],
)
def test_each_word_has_its_look(low: float, high: float, word: str, css: str) -> None:
    table = verdict_table(Family("base", ["val/f1/macro"], [verdict("a", low, high, margin=0.005)], 12))
    assert table is not None
    (cell,) = table["rows"]["a"]
    assert (cell["word"], cell["css"]) == (word, css)
    assert table["columns"] == ["macro F1, margin ±0.5"]
    assert table["collapsed"] == {"a": "0/12"}


@pytest.mark.parametrize("known", [True, False])
def test_what_each_seed_chose_is_marked_where_it_is_at_an_end_of_what_was_tried(known: bool) -> None:
    scores = {0: {0.1: 0.9, 0.2: 0.8, 0.4: 0.7}, 1: {0.1: 0.7, 0.2: 0.8, 0.4: 0.7}, 2: {0.2: 0.7, 0.4: 0.8, 0.8: 0.7}}
    results = [
        {
            "label": f"focal lr={rate}", "order": 0, "seed": seed, "setting_hash": str(rate), "data_name": "pets",
            "setting": {"arm": "focal", "values": {"model.lr": rate}}, "metrics": {"val/f1/macro": score},
        }
        for seed, by_rate in scores.items()
        for rate, score in by_rate.items()
    ]  # fmt: skip
    study = StudyFile("", {}, [0, 1, 2], tune={"model.lr": [0.1, 0.2, 0.4]})
    table = choices_table(summarise("pets", results if known else study.replicates(results), study))
    assert table is not None
    assert table.columns == ["setting", "of", "seed 0", "seed 1", "seed 2", "median"]
    assert table.rows == [["focal", "lr", "0.1*" if known else "0.1", "0.2", "0.4", "0.2"]]
    text = markdown(summarise("pets", results, study))
    assert "| focal | lr | 0.2 | 0.1 to 0.4 | 1 |" in text
    assert choices_table(summarise("pets", results, StudyFile("", {}, [0, 1, 2]))) is None
