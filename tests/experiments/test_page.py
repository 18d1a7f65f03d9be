"""The committed pages are written from the kept records, and each number in them is a record's."""

import json
import re
import shutil
from pathlib import Path

import pytest
from results.kept import keep
from results.page import (
    FINDINGS,
    KEPT,
    PLACEHOLDER,
    draw_losses,
    fill_placeholders,
    read_kept_studies,
    render_files,
    render_page,
    replace_block,
)
from results.summaries import KeptStudy, read_kept_study

from losslab.cli import main
from losslab.errors import UserError

NAME = "focal-balanced"
WRITTEN = render_files()


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.name)
def test_what_is_committed_is_what_the_kept_records_say(file: Path) -> None:
    assert file.read_text() == WRITTEN[file], "`make results` writes it again"


def test_the_corrections_sentence_is_that_of_the_kept_records() -> None:
    """Its numbers have no placeholder: verdicts that were lost and gained, and what one coarse list does to F1."""
    studies = read_kept_studies(KEPT)
    former, present = (studies[name].newest for name in ("losses-tail-0.01-former", "losses-tail-0.01"))
    assert former is not None
    assert present is not None
    assert former.summary.family is not None
    assert present.summary.family is not None
    rate = studies["losses-tail-0.01-former"].untuned
    labels = {setting.label: rate[setting.setting_hash] for setting in former.summary.settings}
    before = {(labels[v.setting], v.metric): (v.low > 0) - (v.high < 0) for v in former.summary.family.verdicts}
    now = {(v.setting, v.metric): v.direction for v in present.summary.family.verdicts}
    assert before.keys() == now.keys()
    higher, lower = ([key for key, sign in before.items() if sign == each] for each in (1, -1))
    assert (len(higher), sum(now[key] == "higher" for key in higher)) == (23, 11)
    assert sum(word == "higher" for word in now.values()) == 11
    assert {key[0] for key in lower if now[key] != "lower"} == {"dice"}
    assert sum(now[key] != "lower" for key in lower) == 2
    assert sum(word == "lower" and before[key] != -1 for key, word in now.items()) == 13

    searched = studies["losses-tail-0.01"].kept.stage_results("search")
    f1: dict[str, dict[int, dict[float, float]]] = {}
    for result in searched:
        of_seed = f1.setdefault(result["setting"]["arm"], {}).setdefault(result["seed"], {})
        (value,) = result["setting"]["values"].values()
        of_seed[value] = 100 * result["metrics"]["val/f1/macro"]
    tuned, other = f1["cross-entropy"], f1["LDAM"]
    by_rate = [of_seed[0.016] - of_seed[0.032] for of_seed in tuned.values()]
    assert (round(sum(by_rate) / 12, 2), sum(d > 0 for d in by_rate)) == (1.34, 12)
    assert round(sum(max(other[s].values()) - tuned[s][0.032] for s in tuned) / 12, 2) == 1.53
    assert round(sum(max(other[s].values()) - max(tuned[s].values()) for s in tuned) / 12, 2) == 0.08


def test_every_kept_study_is_whole_enough_to_be_read() -> None:
    for name, kept in read_kept_studies(KEPT).items():
        assert kept.kept.header["name"] == name
        assert len({(r["stage"], r["setting_hash"], r["seed"]) for r in kept.kept.results}) == len(kept.kept.results)


def test_every_measured_number_of_the_findings_comes_from_a_record() -> None:
    text = PLACEHOLDER.sub("", FINDINGS.read_text())
    assert re.findall(r"\d[\d.,]*\s*(?:%|percent|points?\b)", text) == [
        "1.34 points", "1.53 points",  # of `test_the_corrections_sentence_is_that_of_the_kept_records`
    ]  # fmt: skip


def test_the_page_tells_where_its_numbers_come_from(finished: Path, study: KeptStudy) -> None:
    page = render_page({NAME: study}, "# Found\n\n{{focal-balanced|focal|f1/macro}} of 100", finished)
    assert "`losslab confirm runs/focal-balanced --top all`" in page
    assert "4 runs, each once" in page
    assert "Every loss on balanced MNIST: not run yet" in page


def test_a_half_finished_study_is_kept_as_far_as_it_is(copied: Path) -> None:
    shutil.rmtree(copied / "confirm")
    kept = keep(copied, Path("elsewhere"))
    assert {result["stage"] for result in kept.results} == {"search"}
    half = read_kept_study(Path(f"elsewhere/{NAME}.jsonl"))
    assert half is not None
    assert half.newest is None
    assert "not confirmed yet" in render_page({NAME: half}, "", Path())


def test_a_placeholder_is_the_number(study: KeptStudy) -> None:
    assert study.newest is not None
    focal = next(setting for setting in study.newest.summary.settings if setting.label == "focal")
    mean, sd = focal.mean_sd("test/recall/macro")
    filled = fill_placeholders("a {{focal-balanced|focal|recall/macro}} b", {NAME: study}, "findings.md")
    assert filled == f"a {100 * mean:.2f} ± {100 * sd:.2f} b"
    assert study.newest.summary.family is not None
    verdict = study.newest.summary.family.of("focal", "test/recall/tail")
    assert verdict is not None
    word = fill_placeholders("{{focal-balanced|focal|recall/tail|verdict}}", {NAME: study}, "findings.md")
    assert word == verdict.word
    collapses = fill_placeholders("{{focal-balanced|focal|collapsed}}", {NAME: study}, "findings.md")
    assert collapses == f"{verdict.collapsed} of 2"
    (rate,) = focal.median_choices.values()
    assert fill_placeholders("{{focal-balanced|focal|lr}}", {NAME: study}, "findings.md") == f"{rate:g}"


def test_a_difference_has_its_interval() -> None:
    kept = read_kept_study(KEPT / f"{NAME}.jsonl")
    assert kept is not None
    difference = fill_placeholders("{{focal-balanced|gamma=2|f1/macro|difference}}", {NAME: kept}, "findings.md")
    assert re.fullmatch(r"[+−]\d+\.\d\d \[[+−]\d+\.\d\d, [+−]\d+\.\d\d\]", difference)


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("focal-balance|focal|recall/macro", "no study 'focal-balance' is kept with a confirmation; there are focal-b"),
        ("focal-balanced|focus|recall/macro", "no setting 'focus' in focal-balanced; there are cross-entropy, focal"),
        ("focal-balanced|focal|recal/macro", "no metric 'recal/macro' of 'focal'; there are"),
        ("focal-balanced|focal|ece|difference", "no verdict on it; there are those on precision/macro"),
        ("focal-balanced|cross-entropy|f1/macro|difference", "no verdict on it"),
        ("focal-balanced|focal", "must be STUDY"),
        ("focal-balanced|focal|ece|diference", "must be STUDY"),
    ],
)
def test_a_wrong_placeholder_is_told(study: KeptStudy, placeholder: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as told:
        fill_placeholders(f"{{{{{placeholder}}}}}", {NAME: study}, "findings.md")
    assert f"findings.md: {{{{{placeholder}}}}}" in str(told.value)


def test_the_picture_is_the_same_for_the_same_numbers_and_changes_with_them(study: KeptStudy) -> None:
    assert study.newest is not None
    summary = study.newest.summary
    picture = draw_losses(summary)
    assert picture == draw_losses(summary)
    assert "<dc:date>" not in picture
    assert all(f"<!-- {setting.label} -->" in picture for setting in summary.settings)
    summary.settings[1].values["test/recall/tail"][0] += 0.01
    assert picture != draw_losses(summary)


def test_the_readmes_block_is_replaced_and_nothing_else() -> None:
    assert replace_block("a\n<!-- results -->\nold\n<!-- /results -->\nb\n", "new") == (
        "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
    )
    for readme in ("a", "<!-- results -->", "<!-- /results --><!-- results -->"):
        with pytest.raises(UserError, match=re.escape("must have the lines <!-- results -->")):
            replace_block(readme, "new")


@pytest.mark.parametrize("label", ["gamma=2"])
def test_a_cell_trained_again_is_within_four_sd_of_its_kept_mean(label: str, repository: Path) -> None:
    """Focal's gamma on the embedded images, three of the ten kept seeds trained and tested anew, each alone."""
    study = read_kept_study(repository / "experiments" / "results" / "focal-embedded.jsonl")
    assert study is not None
    assert study.newest is not None
    setting = next(s for s in study.newest.summary.settings if s.label == label)
    assert len(setting.seeds) == 10
    lr = study.tuned[setting.setting_hash]["lr"]
    experiment = ["--config", str(repository / "experiments" / "mlp_64.yaml"), "--data.source", "embedded"]
    experiment += ["--data.split_seed", "0"]  # as when it was kept
    loss = ["--model.loss", "FocalLoss", "--model.loss.gamma", label.removeprefix("gamma=")]
    for seed in setting.seeds[:3]:
        seeded = ["--seed_everything", str(seed), "--name", f"cell-{seed}", "--trainer.enable_progress_bar", "false"]
        assert main(["fit", *experiment, *loss, "--model.optimizer.lr", str(lr), *seeded]) == 0
        assert main(["test", "--run", f"runs/cell-{seed}"]) == 0
        (file,) = Path("runs").glob(f"cell-{seed}/*/test/metrics.json")
        measured = json.loads(file.read_text())["metrics"]
        for key in ("test/f1/macro", "test/precision/macro", "test/recall/macro", "test/ece", "test/acc"):
            mean, sd = setting.mean_sd(key)
            assert abs(measured[key] - mean) <= 4 * sd, key
