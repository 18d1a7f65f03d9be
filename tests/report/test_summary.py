"""The summary says what the results say, and no more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losslab.errors import UserError
from losslab.report import (
    Summary,
    confirmation_of,
    format_interval,
    markdown_verdicts,
    show_summary,
    summarise,
    summarise_folder,
)
from losslab.report.summary import format_difference
from losslab.report.verdicts import Verdict
from losslab.run import dump_yaml
from losslab.study import StudyFile, result_path, write_result

GAMMA = "model.loss.gamma"
COUNTS = {"cat": 50, "dog": 5}


def declared(**changes: Any) -> StudyFile:
    keys = {
        "seeds": list(range(9)),
        "monitor": "val/f1/macro",
        "direction": "maximize",
        "baseline": {"arm": "focal", GAMMA: 0},
        "family": ["val/f1/macro"],
        "storage": "journal",
    }
    return StudyFile.from_declared(keys | changes)


def results(scores: dict[float, list[float]], **more: Any) -> list[dict[str, Any]]:
    def metrics(score: float) -> dict[str, float]:
        keys = [f"{m}/{c}" for m in ("precision", "recall") for c in ("macro", "cat", "dog")]
        return {f"val/{key}": score for key in [*keys, "f1/macro", "acc", "ece", "loss"]}

    return [
        {
            "label": f"gamma={gamma}",
            "order": order,
            "seed": seed,
            "setting": {"arm": "focal", "values": {GAMMA: gamma}},
            "setting_hash": str(gamma),
            "metrics": metrics(score),
            "data_name": "pets",
            **more,
        }
        for order, (gamma, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]


def summary_of(scores: dict[float, list[float]], **changes: Any) -> Summary:
    return summarise("pets", results(scores), declared(**changes))


BASE = [0.90, 0.92, 0.91, 0.905, 0.915, 0.91, 0.90, 0.92, 0.91]
SAME = [0.93, 0.91, 0.92, 0.90, 0.92, 0.91, 0.91, 0.92, 0.90]
BETTER = [0.95, 0.971, 0.96, 0.953, 0.966, 0.961, 0.951, 0.97, 0.959]


def test_a_difference_that_is_not_shown_leaves_the_baseline_in_place() -> None:
    summary = summary_of({0: BASE, 2: SAME})
    assert summary.best.label == "gamma=2"
    assert summary.chosen.label == "gamma=0"
    assert summary.answer[0] == "No difference between gamma=2 and gamma=0 is shown in macro F1."
    assert summary.answer[1].startswith("gamma=2 has the best mean macro F1: +0")
    assert summary.answer[1].endswith("so gamma=0 stays the choice.")
    assert "family of 1 comparisons" in summary.answer[2]


def test_a_shown_difference_changes_the_choice() -> None:
    summary = summary_of({0: BASE, 2: BETTER})
    assert summary.answer[0].startswith("Against gamma=0, gamma=2 has higher macro F1.")
    assert summary.chosen.label == "gamma=2"


def test_three_seeds_change_nothing_however_large_the_difference() -> None:
    summary = summary_of({0: BASE[:3], 2: BETTER[:3]}, seeds=[0, 1, 2])
    assert summary.chosen.label == "gamma=0"
    assert "needs 6 seeds" in summary.answer[1]
    assert summary.answer[2] == "No verdict on 1 comparison below 6 paired seeds; there are 3."


def test_a_baseline_that_is_best_is_said_to_be() -> None:
    summary = summary_of({0: BETTER, 2: BASE})
    assert summary.answer[1] == "No setting has a better mean macro F1 than gamma=0, the baseline."
    assert summary.answer[0].startswith("Against gamma=0, gamma=2 has lower macro F1.")
    assert summary.chosen.label == "gamma=0"


def test_a_setting_without_all_seeds_is_neither_chosen_nor_compared() -> None:
    summary = summary_of({0: BASE, 2: [0.99]})
    assert summary.best.label == "gamma=0"
    assert summary.family is not None
    assert summary.family.verdicts == []


def test_nothing_complete_is_nothing_to_compare() -> None:
    summary = summary_of({0: [0.90, 0.91], 2: [0.95]})
    assert summary.answer == ["No setting has a result for each of its seeds: there is nothing to compare yet."]
    assert summary.family is None


def test_a_baseline_that_is_complete_before_all_others_is_told(tmp_path: Path) -> None:
    """At nine seeds a family with comparisons would have verdicts."""
    summary = summary_of({0: BASE, 2: BETTER[:4]})
    assert summary.answer == ["There is nothing yet to compare with gamma=0."]
    assert markdown_verdicts(summary) == "There is nothing yet to compare with gamma=0."
    show_summary(summary, tmp_path)


def test_one_comparison_that_is_not_shown_is_told_in_the_singular() -> None:
    answer = summary_of({0: BASE, 1: BETTER, 2: BASE}).answer
    assert answer[0].endswith("has higher macro F1; the other 1 of 2 comparisons is not shown.")


def test_the_answer_says_what_is_alike_or_differs_by_less_than_the_margin() -> None:
    def shifted(points: list[float]) -> list[float]:
        return (np.array(BASE) + np.array(points) / 100).tolist()

    same = shifted([0.1, -0.1, 0.05, -0.05, 0.1, -0.1, 0.02, -0.02, 0.01])
    little = shifted([0.3, 0.31, 0.29, 0.32, 0.28, 0.3, 0.3, 0.29, 0.31])
    answer = summary_of({0: BASE, 1: same, 2: little, 3: SAME}, margins={"val/f1/macro": 0.01}).answer
    assert answer[0] == (
        "Against gamma=0, gamma=1 is alike in macro F1; gamma=2 has higher macro F1 (by less than the margin); the "
        "other 1 of 3 comparisons is not shown."
    )


def test_a_loss_has_three_digits_also_where_the_last_ones_are_zero() -> None:
    differences = [format_difference("val/loss", value) for value in (0.1004, -0.00499999, -0.0, 123.4)]
    assert differences == ["+0.100", "−0.00500", "+0.00", "+123"]


def test_less_can_be_better() -> None:
    lower = (np.array(BASE) - [0.3, 0.31, 0.29, 0.302, 0.3, 0.305, 0.3, 0.303, 0.301]).tolist()
    summary = summary_of({0: BASE, 2: lower}, monitor="val/ece", direction="minimize", family=[])
    assert summary.best.label == "gamma=2"
    assert summary.chosen.label == "gamma=2"
    assert summary.answer[1].startswith("gamma=2 has the best mean ECE: −30.12 [")
    assert "points against the baseline, lower" in summary.answer[1]


def test_a_lower_loss_is_better_and_is_not_in_percent() -> None:
    lower = (np.array(BASE) - [0.3, 0.31, 0.29, 0.302, 0.3, 0.305, 0.3, 0.303, 0.301]).tolist()
    summary = summary_of({0: BASE, 2: lower}, monitor="val/loss", direction="minimize")
    assert [setting.label for setting in summary.ranked] == ["gamma=2", "gamma=0"]
    assert summary.chosen.label == "gamma=2"
    assert summary.answer[1].startswith("gamma=2 has the best mean loss: −0.301 [−0.3")
    assert "points" not in summary.answer[1]
    assert "] against the baseline, lower" in summary.answer[1]
    worse = summary_of({0: lower, 2: BASE}, monitor="val/loss", direction="minimize")
    assert worse.answer[1] == "No setting has a better mean loss than gamma=0, the baseline."
    assert worse.chosen.label == "gamma=0"
    search = summary_of({0: BASE, 2: lower}, monitor="val/loss", direction="minimize", baseline=None)
    assert search.answer[0].startswith("Best of 2 on validation: gamma=2, loss 0.6088±0.")
    assert "%" not in search.answer[0]


def test_losses_of_different_settings_are_not_compared() -> None:
    given = results({0: BASE, 2: BETTER})
    summary = summarise("pets", given, declared(monitor="val/loss", direction="minimize"), same_loss=False)
    assert summary.answer == [
        "The settings differ in their loss, so val/loss does not compare them: monitor another metric."
    ]
    assert summary.family is not None
    assert summary.family.metrics == ["val/f1/macro"]


def test_a_confirmation_chooses_on_validation_of_those_that_the_test_images_show_to_be_better() -> None:
    given = results({0: BASE, 1: BETTER, 2: BASE, 3: BASE})
    test_scores = {"gamma=0": 0.0, "gamma=1": 0.05, "gamma=2": 0.06, "gamma=3": -0.05}
    for result in given:
        shift = test_scores[result["label"]] * (1 + result["seed"] / 100)
        result["metrics"] |= {f"test/{m}": BASE[result["seed"]] + shift for m in ("f1/macro", "loss")}
    confirmation = confirmation_of("pets/confirm", given, declared(), True)
    assert confirmation.summary.best.label == "gamma=2"
    assert confirmation.summary.chosen.label == "gamma=1"
    assert confirmation.choice_text == "gamma=1 is shown to have a better macro F1 than gamma=0, and is the choice."
    less = confirmation_of("pets/confirm", given, declared(monitor="val/loss", direction="minimize", family=[]), True)
    assert less.summary.chosen.label == "gamma=3"
    worse = confirmation_of("pets/confirm", given[:9] + given[27:], declared(), True)
    assert worse.summary.chosen.label == "gamma=0"
    assert worse.choice_text == "No setting is shown to have a better macro F1 than gamma=0, which is the choice."


def test_the_heading_says_how_far_a_training_was_limited() -> None:
    given = results({0: BASE, 2: SAME}, conditions={"limit_train_batches": 1})
    assert summarise("pets", given, declared()).heading.endswith(", limited: limit_train_batches=1")
    given[0]["conditions"] = {}
    assert summarise("pets", given, declared()).heading.endswith(", partly limited: limit_train_batches=1")


def test_results_of_different_images_are_found_although_the_first_one_records_none(tmp_path: Path) -> None:
    given = results({0: BASE, 1: SAME, 2: SAME}, hashes={"train": "a", "split": "c"})
    del given[1]["hashes"]
    given[10] |= {"hashes": {"train": "b", "split": "c"}}  # of the same seed
    (tmp_path / "study.json").write_text(json.dumps({"declared": declared().declared(), "study": {"arms": {}}}))
    for result in given:
        write_result(result_path(tmp_path, result["setting_hash"], result["seed"]), result)
    with pytest.raises(UserError, match=r"results of different images .* gamma=1 seed=1 has b, gamma=2 seed=1 has a"):
        summarise_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "arms", "refused"),
    [
        ({"data_name": "embedded pets"}, {}, True),
        ({"hashes": {"train": "b", "split": "c"}}, {}, True),
        ({"hashes": {"train": "a", "split": "d"}}, {}, True),
        ({"conditions": {"overfit_batches": 2}}, {}, True),
        ({"data_name": "embedded pets"}, {"focal": {"data": {}}}, True),  # a seed of the setting has other images
        ({}, {}, False),
    ],
)
def test_results_of_different_images_or_limits_are_not_averaged(
    tmp_path: Path, change: dict[str, Any], arms: dict[str, Any], refused: bool
) -> None:
    given = results({0: BASE, 2: SAME}, hashes={"train": "a", "split": "c"})
    given[10] |= change
    (tmp_path / "study.json").write_text(json.dumps({"declared": declared().declared(), "study": {"arms": arms}}))
    for result in given:
        write_result(result_path(tmp_path, result["setting_hash"], result["seed"]), result)
    if not refused:
        assert len(summarise_folder(tmp_path)[1]) == 18
        return
    with pytest.raises(UserError, match=r"cannot be averaged or compared: gamma=\d seed=\d has .*another --name"):
        summarise_folder(tmp_path)
    for result in given:  # all images of a setting are the same, and its arm changes the data
        changed = result | (change if result["label"] == "gamma=2" else {})
        result_path(tmp_path, result["setting_hash"], result["seed"]).write_text(json.dumps(changed))
    if arms:
        assert "embedded pets and pets" in summarise_folder(tmp_path)[0].heading


@pytest.mark.parametrize(("second", "comparable"), [("FocalLoss", True), ("PolyLoss", False)])
def test_whether_losses_are_compared_is_read_from_the_runs(tmp_path: Path, second: str, comparable: bool) -> None:
    """A sweep refuses such a study today."""
    study = declared(monitor="val/loss", direction="minimize", family=[])
    (tmp_path / "study.json").write_text(json.dumps({"declared": study.declared(), "study": {"arms": {}}}))
    for result in results({0: BASE, 2: SAME}):
        run, loss = f"runs/{result['setting_hash']}/{result['seed']}", second if result["order"] else "FocalLoss"
        (tmp_path / run).mkdir(parents=True)
        config = {"model": {"init_args": {"loss": {"class_path": f"losslab.losses.{loss}"}}}}
        (tmp_path / run / "config.yaml").write_text(dump_yaml(config))
        write_result(result_path(tmp_path, result["setting_hash"], result["seed"]), result | {"run": run})
    assert summarise_folder(tmp_path)[0].comparable == comparable


def test_a_search_without_a_baseline_says_that_its_best_is_optimistic() -> None:
    summary = summary_of({0: BASE, 2: BETTER}, baseline=None)
    assert summary.answer[0].startswith("Best of 2 on validation: gamma=2, macro F1 96.01±")
    assert "likely worse on fresh seeds" in summary.answer[1]
    assert summary.chosen is summary.best


def test_the_monitored_metric_belongs_to_the_family_and_counts() -> None:
    summary = summary_of({0: BASE, 1: SAME, 2: SAME}, family=["val/recall/macro", "val/recall/dog"])
    assert summary.family is not None
    assert summary.family.metrics == ["val/recall/macro", "val/recall/dog", "val/f1/macro"]
    assert summary.family.size == 6


def test_settings_whose_rounded_labels_are_alike_stay_apart() -> None:
    given = results({0: BASE, 2: SAME})
    for result in given:
        result["label"] = "gamma=1"
    labels = [setting.label for setting in summarise("pets", given, declared()).settings]
    assert labels == ["gamma=1 (0)", "gamma=1 (2)"]


@pytest.mark.parametrize("tailed", [True, False])
def test_without_a_declared_family_it_is_macro_and_tail_where_there_is_a_tail(tailed: bool) -> None:
    counts = {"class_counts": COUNTS} if tailed else {}
    summary = summarise("pets", results({0: BASE, 2: SAME}, **counts), declared(family=[], monitor="val/recall/macro"))
    assert summary.family is not None
    tail = ["val/precision/tail", "val/recall/tail"] if tailed else []
    assert summary.family.metrics == ["val/precision/macro", "val/recall/macro", *tail]
    assert summary.settings[0].classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.002, 0.0001, "−0.10 [−0.20, +0.01]"),
        (-0.0031, -0.00002, "−0.156 [−0.310, −0.002]"),
        (0.000002, 0.004, "+0.2001 [+0.0002, +0.4000]"),
    ],
)
def test_an_interval_that_leaves_out_zero_does_not_look_as_if_it_ended_there(
    low: float, high: float, text: str
) -> None:
    verdict = Verdict("gamma=2", "val/f1/macro", (low + high) / 2, 0.001, low, high, 0.01, 6, 8, 1, low, high)
    assert format_interval(verdict) == text


def test_what_is_tuned_counts_at_its_best_value_and_has_the_baselines_name_without_it() -> None:
    lr = "model.optimizer.lr"
    given = []
    for gamma, rate, score in [(0, 0.1, BASE), (0, 0.2, SAME), (2, 0.1, BETTER), (2, 0.2, BASE)]:
        for result in results({gamma: score}):
            result |= {"label": f"gamma={gamma} lr={rate}", "setting_hash": f"{gamma} {rate}"}
            result["setting"] = {"arm": "focal", "values": {GAMMA: gamma, lr: rate}}
            given.append(result)
    summary = summarise("pets", given, declared(tune={lr: [0.1, 0.2, 0.4]}))
    base = max((BASE, 0.1), (SAME, 0.2), key=lambda pair: np.mean(pair[0]))[1]
    assert [setting.label for setting in summary.settings] == [f"gamma=0 lr={base}", "gamma=2 lr=0.1"]
    assert len(summary.tried) == 4
    assert summary.baseline is summary.settings[0]
    assert summary.family is not None
    assert summary.family.size == 1
    assert "at one learning rate" not in summary.heading
