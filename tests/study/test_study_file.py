"""The study as its folder keeps it, study.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from losslab.errors import UserError
from losslab.study import Setting, SettingResults, StudyFile, group_by_setting, read_declared, read_study

BASELINE = {"arm": "focal", "model.init_args.loss.init_args.gamma": 0}

RECORD = """\
{
 "study": {
  "experiment": "../experiments/cnn.yaml",
  "arms": {"focal": {"model.init_args.loss": {"class_path": "losslab.losses.FocalLoss"}}},
  "grid": {"model.init_args.loss.init_args.gamma": [0, 2]},
  "seeds": [0, 1],
  "monitor": "val/f1/macro",
  "baseline": {"arm": "focal", "model.init_args.loss.init_args.gamma": 0},
  "family": ["val/precision/macro", "val/recall/macro"],
  "storage": "journal"
 },
 "experiment": {
  "seed_everything": 0,
  "model": {"class_path": "losslab.models.CNN", "init_args": {"widths": [16, 32, 64]}},
  "data": {"class_path": "losslab.data.MNISTDataModule", "init_args": {"source": "embedded"}},
  "trainer": {"max_epochs": 20}
 },
 "data": {"name": "mnist-5k", "train": "275631c185f2928a", "split": "9d890e252c2f2592"},
 "declared": {
  "seeds": [0, 1],
  "monitor": "val/f1/macro",
  "direction": "maximize",
  "baseline": {"arm": "focal", "model.init_args.loss.init_args.gamma": 0},
  "family": ["val/precision/macro", "val/recall/macro"],
  "storage": "journal",
  "tune": {}
 },
 "command": "losslab sweep --config sweeps/gamma.yaml --data.source embedded --seeds 0 1"
}
"""
"""Written before the room `study` existed."""


def test_the_record_of_an_earlier_version_is_read_and_declared_again_with_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(RECORD)
    study = read_declared(tmp_path)
    assert (study.seeds, study.monitor, study.sign, study.split) == ([0, 1], "val/f1/macro", 1, "val")
    assert study.baseline == BASELINE
    assert study.endpoints([]) == ["val/precision/macro", "val/recall/macro", "val/f1/macro"]
    assert not study.tune
    declared = json.loads(RECORD)["declared"]
    assert study.declared() == declared | {"margins": {}, "arm_tune": {}, "tune_per": "study"}
    assert StudyFile.from_declared(study.declared()) == study


def test_ten_keys_are_declared_whatever_else_a_study_has() -> None:
    study = StudyFile("cnn.yaml", {"a": {}, "b": {}}, [0], trials=3, keep="all", population=4)
    tuning, keys = ["tune", "arm_tune", "tune_per"], ["seeds", "monitor", "direction", "baseline", "family", "margins"]
    assert [*study.declared()] == [*keys, "storage", *tuning]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no study: there is no study.json in it"),
        (RECORD[:-9], "study.json cannot be read"),
        ('{"study": {}}', "study.json cannot be read .KeyError: 'declared'.; `losslab sweep` with the study's file"),
        (RECORD.replace('"tune"', '"tunes"'), "study.json cannot be read .TypeError: .*tunes"),
    ],
    ids=["missing", "torn", "without declared", "unknown key"],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_declared(tmp_path)


@pytest.mark.parametrize(
    ("monitor", "direction", "sign"),
    [("val/loss", "minimize", -1), ("val/ece", "minimize", -1), ("val/f1/macro", "maximize", 1)],
)
def test_the_direction_is_the_metrics_and_another_one_is_refused(
    tmp_path: Path, monitor: str, direction: str, sign: int
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"experiment: tiny.yaml\narms: {{a: {{}}, b: {{}}}}\nseeds: [0]\nmonitor: {monitor}\n")
    study = read_study(file, {})
    assert (study.direction, study.sign, study.declared()["direction"]) == (direction, sign, direction)
    assert read_study(file, {"direction": direction}) == study
    wrong = {"minimize": "maximize", "maximize": "minimize"}[direction]
    with pytest.raises(UserError, match=f"direction is {wrong}, but {monitor} is to {direction}; leave direction out"):
        read_study(file, {"direction": wrong})


def test_a_record_that_maximised_a_loss_is_read_to_minimise_it_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "study.json").write_text(RECORD.replace("val/f1/macro", "val/loss"))
    assert read_declared(tmp_path).direction == "minimize"
    (record,) = caplog.records
    assert "was run to maximize val/loss; its results are read to minimize it" in record.getMessage()


@pytest.mark.parametrize("monitor", ["val/loss", "val/acc"])
def test_a_setting_whose_mean_is_nan_is_never_the_best(monitor: str) -> None:
    def setting(*values: float) -> SettingResults:
        return SettingResults("", "a", {}, "", [0, 1], {monitor: [*values]}, [], [])

    diverged, first, second = setting(float("nan"), 0.1), setting(0.3, 0.3), setting(0.2, 0.5)
    study = StudyFile("", {}, [0, 1], monitor=monitor)
    best = study.best([diverged, first, second])
    assert best is (first if monitor == "val/loss" else second)
    assert study.best([diverged, best]) is study.best([best, diverged]) is best


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: {a: {}}\ngrid: {x.y: [1, 1.0]}", r"x.y has the values \(1, 1.0\), which count as one"),
        ("arms: {a: {}}\ngrid: {x.y: [false, 0]}", r"x.y has the values \(False, 0\), which count as one"),
        (
            "arms: {a: {}}\ntrials: 2\n"
            "space: {x: {class_path: optuna.distributions.CategoricalDistribution, init_args: {choices: [1, true]}}}",
            r"x has the values \(1, True\), which count as one",
        ),
        ("arms: {a: {x.y: 1, x: {z: 2}}, b: {}}", "arm a gives x twice, by x.y and by x"),
        ("arms: {a: {x: {y: 1}, x.y: 2}, b: {}}", "arm a gives x.y twice, by x and by x.y"),
        ("arms: {a: {x.y: 1}}\ngrid: {x.y: [1, 2]}", "arm a gives x.y twice"),
        ("arms: {a: {x.y: 1}}\ntune: {x: [1, 2, 4]}", "arm a gives x twice, by x.y and by x"),
        ("arms: {a: {}, a: {x: 1}}", "line 2, column 15: a is given twice"),
        ("arms: {off: {}, b: {}}", "line 2, column 8: a key must be a string, but YAML reads off as False"),
    ],
)
def test_no_value_of_a_study_is_silently_replaced_by_another(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"experiment: tiny.yaml\n{text}\nseeds: [0]\n")
    with pytest.raises(UserError, match=message):
        read_study(file, {})


def test_a_value_within_an_arms_object_is_varied_by_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("experiment: tiny.yaml\narms: {a: {x: {y: 1, z: 2}, v.w: 3}}\ngrid: {x.y: [1, 2.0]}\nseeds: [0]\n")
    study = read_study(file, {})
    assert [Setting("a", {"x.y": value}).config(study, {}, 0)["x"] for value in (1, 2.0)] == [
        {"y": 1, "z": 2},
        {"y": 2.0, "z": 2},
    ]


def test_a_study_of_before_tune_per_tuned_once_for_all_seeds_and_one_without_it_now_tunes_for_each() -> None:
    tune: Any = {"tune": {"lr": [1.0, 2.0, 4.0]}}
    assert not StudyFile.from_declared({"seeds": [0], **tune}).tunes_each_seed
    now = StudyFile("x.yaml", {"a": {}}, [0], **tune)
    assert now.tunes_each_seed
    assert StudyFile.from_declared(json.loads(json.dumps(now.declared()))).tunes_each_seed
    assert not StudyFile("x.yaml", {"a": {}}, [0]).tunes_each_seed  # nothing is tuned


DRAWN = "class_path: optuna.distributions.FloatDistribution, init_args"
TWO_ARMS = "experiment: tiny.yaml\narms: {a: {}, b: {}}\nseeds: [0]\n"


def test_a_start_is_a_list_and_what_is_drawn_is_declared_by_its_ends(tmp_path: Path) -> None:
    file, both = tmp_path / "study.yaml", []
    for tune in ("[0.1, 0.2, 0.4]", "{start: [0.1, 0.2, 0.4]}"):
        file.write_text(f"{TWO_ARMS}tune: {{lr: {tune}}}\n")
        both.append(read_study(file, {}))
    assert both[0] == both[1]
    assert both[1].lists == {"lr": [0.1, 0.2, 0.4]}
    file.write_text(
        f"{TWO_ARMS}draws: 2\ntune: {{lr: {{{DRAWN}: {{low: 0.1, high: 1, log: true}}}}}}\n"
        f"arm_tune: {{b: {{gamma: {{{DRAWN}: {{low: 0, high: 5}}}}}}}}\n"
    )
    study = read_study(file, {})
    assert study.lists == {}
    declared = json.loads(json.dumps(study.declared()))
    assert declared["tune"] == {"lr": {"low": 0.1, "high": 1.0, "log": True}}
    assert declared["arm_tune"] == {"b": {"gamma": {"low": 0.0, "high": 5.0, "log": False}}}
    known = StudyFile.from_declared(declared)
    assert known.tunes_each_seed
    assert known.declared() == declared


RATES = f"tune: {{lr: {{{DRAWN}: {{low: 0, high: 1}}}}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune: {lr: [0.1, 0.3, 0.6]}", "tune.lr steps from 0.1 to 0.3, by more than a factor of 2"),
        ("tune: {lr: {start: [0.1, 0.2, 0.5]}}", "tune.lr steps from 0.2 to 0.5, by more than a factor of 2"),
        ("tune: {lr: [0.1, 0.2]}", "tune.lr must be three increasing numbers > 0 or more"),
        ("tune: {lr: {start: []}}", "tune.lr must be three increasing numbers > 0 or more"),
        ("tune: {lr: {end: [0.1, 0.2, 0.3]}}", "lr must be a list or a FloatDistribution"),
        ("tune: {lr: [1, 2, 4], x: [1, 2, 4]}", "tune must be one list, got lr, x"),
        (f"draws: 3\n{RATES[:-1]}, x: [1, 2, 4]}}", "one list, or drawn; it mixes both"),
        (RATES, "drawn needs draws >= 1, got None"),
        (f"draws: 0\n{RATES}", "drawn needs draws >= 1, got 0"),
        (f"draws: 3\ntune_per: study\n{RATES}", "give tune_per: seed"),
        ("draws: 3\n" + RATES.replace("high: 1", "high: 1, step: 0.1"), "a FloatDistribution without step"),
        ("draws: 3\ntune: {lr: [1, 2, 4]}", "draws is for a tune that is drawn"),
        (
            f"tune: {{lr: [1, 2, 4]}}\narm_tune: {{a: {{x: {{{DRAWN}: {{low: 0, high: 1}}}}}}}}",
            "needs a `tune` that is",
        ),
        (
            f"draws: 3\n{RATES}\narm_tune: {{c: {{x: {{{DRAWN}: {{low: 0, high: 1}}}}}}}}",
            "arm_tune names c; the arms are",
        ),
        (f"draws: 3\n{RATES}\narm_{RATES.replace('{lr', '{a: {lr')}}}", "arm_tune.a.lr is in tune, too.* delete one"),
        ("tune: {lr: [1, 2, 4]}\ngrid: {lr: [1]}", "lr is in both grid and tune"),
        (
            "tune: {lr: [1, 2, 4]}\npruner: {class_path: optuna.pruners.MedianPruner}",
            "give tune_per: study, or no pruner",
        ),
        ("tune_per: arm\ntune: {lr: [1, 2, 4]}", "tune_per"),
        ("margins: {val/f1/macro: 0}", "numbers in .0, 1., got val/f1/macro: 0"),
        ("margins: {val/f1/macro: 1.0}", "numbers in .0, 1., got val/f1/macro: 1.0"),
        ("margins: {val/loss: 0.1}", "val/ metrics that are shares"),
        ("margins: {test/f1/macro: 0.1}", "margins must map val/ metrics"),
        (
            "family: [val/recall/macro]\nmargins: {val/precision/macro: 0.1}",
            "margins.val/precision/macro is of a metric",
        ),
    ],
)
def test_a_mistake_in_what_is_tuned_or_in_a_margin_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"{TWO_ARMS}{text}\n")
    with pytest.raises(UserError, match=message):
        read_study(file, {})


def test_one_value_for_all_seeds_may_be_tuned_over_a_coarser_list(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    pruner = "pruner: {class_path: optuna.pruners.MedianPruner}"
    file.write_text(f"{TWO_ARMS}tune: {{lr: [0.1, 0.3, 0.9]}}\ntune_per: study\n{pruner}\n")
    assert read_study(file, {}).lists == {"lr": [0.1, 0.3, 0.9]}


def test_margins_of_the_family_and_of_the_monitored_metric_are_declared(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    margins = "margins: {val/recall/macro: 0.01, val/acc: 0.005}"
    file.write_text(f"{TWO_ARMS}monitor: val/acc\nfamily: [val/recall/macro]\n{margins}\n")
    assert read_study(file, {}).declared()["margins"] == {"val/recall/macro": 0.01, "val/acc": 0.005}


LR, GAMMA = "model.init_args.optimizer.init_args.lr", "model.loss.gamma"


def of_seed(seed: int, scores: dict[int, float], arm: str = "a", **more: Any) -> list[dict[str, Any]]:
    monitor, values = more.get("monitor", "val/acc"), more.get("values", {})
    return [
        {
            "label": f"{arm} lr={rate}",
            "order": place,
            "seed": seed,
            "setting": {"arm": arm, "values": values | {LR: rate}},
            "setting_hash": f"{arm}{values}{rate}",
            "metrics": {monitor: score},
            "run": f"{arm} {rate} {seed}",
        }
        for place, (rate, score) in enumerate(scores.items())
    ]


@pytest.mark.parametrize(("monitor", "chosen"), [("val/acc", [2, 4, 4]), ("val/loss", [1, 1, 2])])
def test_each_seeds_replicate_is_its_best_under_the_name_of_the_arm(monitor: str, chosen: list[int]) -> None:
    study = StudyFile("", {}, [0, 1, 2], tune={LR: [1.0, 2.0, 4.0]}, monitor=monitor)
    scores = [{1: 0.1, 2: 0.3, 4: 0.2}, {1: 0.1, 2: 0.2, 4: 0.3}, {1: float("nan"), 2: 0.2, 4: 0.3}]
    given = [result for seed in range(3) for result in of_seed(seed, scores[seed], monitor=monitor)]
    replicates = study.replicates([*given, *of_seed(0, {1: 0.5}, "b", monitor=monitor)])
    assert [(r["label"], r["seed"], r["tuned"][LR]) for r in replicates] == [
        *(("a", seed, chosen[seed]) for seed in range(3)),
        ("b", 0, 1),
    ]
    assert [r["run"] for r in replicates[:3]] == [f"a {chosen[seed]} {seed}" for seed in range(3)]
    a, b = group_by_setting(replicates)
    assert (a.choices, a.median_choices) == ({LR: chosen}, {LR: sorted(chosen)[1]})
    assert a.values[monitor] == [scores[seed][chosen[seed]] for seed in range(3)]
    assert (a.varied, b.varied) == ({}, {})
    assert study.replicates(replicates) == replicates  # those of a confirmation
    assert study.is_complete(a)
    assert not study.is_complete(b)  # at two seeds it failed with every value


def test_the_median_of_an_even_number_of_seeds_is_the_lower_one_of_the_middle_two() -> None:
    study = StudyFile("", {}, [0, 1], tune={LR: [1.0, 2.0, 4.0]}, monitor="val/acc")
    (setting,) = group_by_setting(study.replicates([*of_seed(0, {4: 0.1}), *of_seed(1, {1: 0.3})]))
    assert (setting.choices, setting.median_choices) == ({LR: [4, 1]}, {LR: 1})


def test_each_value_of_the_grid_is_tuned_by_itself() -> None:
    study = StudyFile("", {}, [0], grid={GAMMA: [0, 2]}, tune={LR: [1.0, 2.0, 4.0]}, monitor="val/acc")
    given = [
        result
        for gamma, scores in ((0, {1: 0.2, 2: 0.1}), (2, {1: 0.1, 2: 0.2}))
        for result in of_seed(0, scores, values={GAMMA: gamma})
    ]
    replicates = study.replicates(given)
    assert [(r["label"], r["tuned"]) for r in replicates] == [("gamma=0", {LR: 1}), ("gamma=2", {LR: 2})]
    once = StudyFile("", {}, [0], grid={GAMMA: [0, 2]}, tune={LR: [1.0, 2.0, 4.0]}, tune_per="study")
    assert once.replicates(given) is given
