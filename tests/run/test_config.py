"""What identifies a configuration, and where two differ."""

import json
from pathlib import Path

import pytest

from losslab.run import config_hash, differences, set_value
from losslab.run.config import merge_files

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "CNN", "init_args": {"loss": {"class_path": "Focal", "init_args": {"gamma": 2.0}}}},
    "data": {"init_args": {"root": None, "batch_size": 8, "eval_batch_size": 5}},
    "trainer": {"max_epochs": 3, "logger": False, "callbacks": None},
}


def changed(path: str, value: object) -> dict:
    import copy

    config = copy.deepcopy(CONFIG)
    set_value(config, path, value)
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.init_args.root", "elsewhere"),
        ("data.init_args.eval_batch_size", 9),
        ("trainer.logger", {"class_path": "WandbLogger", "init_args": {"project": "x"}}),
    ],
)
def test_what_changes_no_result_does_not_count(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) == config_hash(CONFIG)
    assert differences(CONFIG, changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [("model.init_args.loss.init_args.gamma", 1.0), ("data.init_args.batch_size", 9), ("trainer.max_epochs", 4)],
)
def test_everything_else_counts(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) != config_hash(CONFIG)
    (line,) = differences(CONFIG, changed(path, value))
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"-> {value}")


@pytest.mark.parametrize(
    ("path", "default", "other"),
    [("model.init_args.lr_interval", None, "step"), ("data.init_args.validation", "balanced", "like_training")],
)
def test_an_argument_that_earlier_versions_did_not_have_counts_unless_it_is_at_its_default(
    path: str, default: object, other: str
) -> None:
    assert config_hash(changed(path, default)) == config_hash(CONFIG)
    assert differences(CONFIG, changed(path, default)) == []
    assert config_hash(changed(path, other)) != config_hash(CONFIG)
    assert differences(CONFIG, changed(path, other)) == [f"{path}: (absent) -> {other}"]


def test_the_seed_is_left_out_on_demand_only() -> None:
    other = changed("seed_everything", 1)
    assert config_hash(other) != config_hash(CONFIG)
    assert config_hash(other, with_seed=False) == config_hash(CONFIG, with_seed=False)


def test_the_order_of_keys_does_not_count() -> None:
    assert config_hash(dict(reversed(CONFIG.items()))) == config_hash(CONFIG)


def test_a_whole_object_is_replaced_not_merged() -> None:
    config = changed("model.init_args.loss", {"class_path": "Dice"})
    assert config["model"]["init_args"]["loss"] == {"class_path": "Dice"}
    assert differences(CONFIG, config) == [
        "model.init_args.loss.class_path: Focal -> Dice",
        "model.init_args.loss.init_args.gamma: 2.0 -> (absent)",
    ]


def test_one_batch_differs_from_the_whole_of_them_and_nan_equals_itself() -> None:
    one, whole = (changed("trainer.limit_train_batches", value) for value in (1, 1.0))
    assert differences(one, whole) == ["trainer.limit_train_batches: 1 -> 1.0"]
    assert config_hash(one) != config_hash(whole)
    assert differences(changed("model.x", float("nan")), changed("model.x", float("nan"))) == []


def test_a_part_of_an_object_may_stand_before_the_object(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text("model.init_args.hidden: [4]\nmodel: {class_path: losslab.models.MLP}\n")
    tokens, _ = merge_files(["--config", str(tmp_path / "exp.yaml")])
    assert json.loads(tokens[1]) == {"model": {"class_path": "losslab.models.MLP", "init_args": {"hidden": [4]}}}
