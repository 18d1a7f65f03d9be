"""`losslab report --compare` marks differences, and compares only studies or runs on the same images."""

import json
import re
import shutil
from pathlib import Path

import pytest

from losslab.cli import main
from losslab.report.compare import ComparedItem, comparison_content, read_compared_item


def shifted(study: Path, to: Path, points: float) -> Path:
    """A copy of the study whose recalls are higher by `points`, a little more for each seed."""
    shutil.copytree(study, to)
    for file in to.glob("results/*/*.json"):
        result = json.loads(file.read_text())
        for key in result["metrics"]:
            if key.startswith("val/recall/"):
                result["metrics"][key] += points * (1 + result["seed"] / 100)
        file.write_text(json.dumps(result))
    return to


def verdicts(a: ComparedItem, b: ComparedItem) -> dict[str, set[str]]:
    table = comparison_content(a, b)["verdicts"]
    assert table is not None
    words: dict[str, set[str]] = {name: set() for name in table["columns"]}
    for cells in table["rows"].values():
        for name, cell in zip(table["columns"], cells, strict=True):
            words[name].add(cell["word"])
    return words


def one_comparison(study: Path, other: Path, metric: str) -> tuple[ComparedItem, ComparedItem]:
    """Both studies with one setting, gamma=2, and one metric: six seeds are enough for one comparison."""
    a, b = read_compared_item(study), read_compared_item(other)
    a.settings, a.endpoints = [setting for setting in a.settings if setting.label == "gamma=2"], [metric]
    return a, b


def test_a_study_against_itself_shows_nothing(gamma_study: Path) -> None:
    assert verdicts(*one_comparison(gamma_study, gamma_study, "val/recall/macro")) == {"macro recall": {"not shown"}}
    page = comparison_content(read_compared_item(gamma_study), read_compared_item(gamma_study))
    assert page["configuration"].rows == []
    assert page["sources"].marked == page["means"].marked == []
    assert page["answer"][1] == "No difference is shown."
    assert page["verdicts"] is not None
    assert {cell["word"] for cells in page["verdicts"]["rows"].values() for cell in cells} == {"no verdict"}
    assert page["verdicts"]["size"] == 3 * 3  # settings in common x metrics
    losses = [row for row in page["means"].rows if row[1] == "loss, own units"]  # of the same loss in both
    assert [row[4] for row in losses] == ["+0.00"] * 3
    value = read_compared_item(gamma_study).settings[0].mean_sd("val/loss")[0]
    assert float(losses[0][2].split("±")[0]) == pytest.approx(value, rel=1e-3)


def test_a_difference_that_all_seeds_have_is_shown_and_marked(gamma_study: Path, tmp_path: Path) -> None:
    better = shifted(gamma_study, tmp_path / "better", 0.1)
    assert verdicts(*one_comparison(gamma_study, better, "val/precision/macro")) == {"macro precision": {"not shown"}}
    one, other = one_comparison(gamma_study, better, "val/recall/macro")
    assert verdicts(one, other) == {"macro recall": {"higher"}}
    assert "macro recall of gamma=2 is higher" in comparison_content(one, other)["answer"][1]
    page = comparison_content(read_compared_item(gamma_study), read_compared_item(better))
    marked = {tuple(page["means"].rows[index][:2]) for index in page["means"].marked}
    assert ("gamma=2", "3 recall") in marked
    assert ("gamma=2", "3 precision") not in marked


def test_other_images_are_not_compared(gamma_study: Path, tmp_path: Path) -> None:
    other = shifted(gamma_study, tmp_path / "other", 0.1)
    for file in other.glob("results/*/*.json"):
        result = json.loads(file.read_text())
        result["hashes"]["split"] = "0" * 64
        file.write_text(json.dumps(result))
    page = comparison_content(read_compared_item(gamma_study), read_compared_item(other))
    assert page["verdicts"] is None
    assert "nothing is compared" in page["note"]
    assert [page["sources"].rows[index][0] for index in page["sources"].marked] == ["split (SHA-256)"]


def test_studies_are_compared_at_the_seeds_that_they_share(gamma_study: Path, tmp_path: Path) -> None:
    """Each seed has a split of its own, so that the two have different sets of splits."""
    other = tmp_path / "fewer"
    shutil.copytree(gamma_study, other)
    for file in other.glob("results/*/5.json"):
        file.unlink()
    page = comparison_content(read_compared_item(gamma_study), read_compared_item(other))
    assert page["note"] == ""
    assert "there are 5" in page["answer"][2]
    (confused,) = [figure for figure in page["figures"] if figure.name == "confusion"]
    assert confused.caption.endswith("Of seed 0 alone, since each seed has validation images of its own.")


@pytest.mark.slow
def test_a_study_whose_seeds_tune_is_compared_at_what_they_chose(tuned_study: Path) -> None:
    page = comparison_content(read_compared_item(tuned_study), read_compared_item(tuned_study))
    assert {row[0] for row in page["means"].rows} == {"cross-entropy", "focal"}


def test_losses_are_those_of_the_studies_runs(gamma_study: Path, tmp_path: Path) -> None:
    """The studies' experiments and arms have the same names."""
    other = shifted(gamma_study, tmp_path / "other", 0.0)
    for file in other.glob("runs/*/*/config.yaml"):
        file.write_text(file.read_text().replace("losslab.losses.FocalLoss", "losslab.losses.PolyLoss"))
    a, b = read_compared_item(gamma_study), read_compared_item(other)
    a.endpoints.append("val/loss")
    page = comparison_content(a, b)
    assert "different losses" in page["note"]
    assert "loss, own units" not in {row[1] for row in page["means"].rows}
    assert "loss, own units" not in verdicts(a, b)


def test_two_runs_and_their_page(tiny_mlp: list[str]) -> None:
    assert main(["fit", *tiny_mlp, "--name", "a"]) == 0
    assert main(["fit", *tiny_mlp, "--name", "b", "--model.loss.gamma", "5"]) == 0
    assert main(["report", "--compare", "runs/a", "runs/b"]) == 0
    page = Path("runs/compare/a-and-b.html").read_text()
    assert "different losses, which are on different scales: the loss is left out" in page
    assert "own units" not in page
    assert "model.init_args.loss.init_args.gamma" in page
    assert "two runs; in the configuration 1 value differs." in page
    assert "No verdict on 3 comparisons below 7 paired seeds; there is 1." in page
    assert {"by-class", "confusion"} == set(re.findall(r'data-figure="([a-z-]+)"', page))
    content = json.loads(re.search(r'id="figure-by-class">(.*?)</script>', page)[1])  # type: ignore[index]
    assert len(content["traces"]) == 4
    assert all(not trace["meta"] for trace in content["traces"])  # nothing to choose from: all are shown


def test_conditions_are_shown_beside_each_other(gamma_study: Path, tmp_path: Path) -> None:
    limited = shifted(gamma_study, tmp_path / "limited", 0.0)
    for file in limited.glob("results/*/*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"conditions": {"limit_train_batches": 1}}))
    page = comparison_content(read_compared_item(gamma_study), read_compared_item(limited))
    assert page["answer"][0].endswith("limited is limited: limit_train_batches=1.")
    assert ["conditions", "none", "limited: limit_train_batches=1"] in page["sources"].rows


def test_a_comparison_of_different_things_is_refused(
    gamma_study: Path, search_study: Path, hostile_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(next(gamma_study.glob("runs/*/seed-0")))
    for a, b, message in (
        (str(gamma_study), run, "is a study and"),
        (str(gamma_study), str(search_study), "no setting in common"),
        (run, str(next(hostile_study.glob("runs/*/seed-0"))), "different classes"),
        ("runs/x", "runs/y", "there is no run in runs/x"),
    ):
        assert main(["report", "--compare", a, b]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert main(["report"]) == 2
    assert "give either a study's folder" in capsys.readouterr().err
