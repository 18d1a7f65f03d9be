"""Before a study begins it says what it will take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_studies
import torch

from losslab.cli import main
from losslab.errors import UserError
from losslab.run import CommandLine
from losslab.study import StudyFile, read_study
from losslab.sweep.command import _announce, _check_settings, say_seeds_needed
from losslab.sweep.study import Study


@pytest.mark.parametrize(("stage", "megabytes"), [("search", 30), ("confirm", 78)])
def test_the_disk_space_is_that_of_all_predictions(
    stage: str, megabytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """100 trainings of 60 kB, with 48 bytes an image: 5,000 for validation and, when confirmed, 10,000 to test."""
    images = {"val": SimpleNamespace(labels=range(5_000)), "test": SimpleNamespace(labels=range(10_000))}
    data: Any = SimpleNamespace(
        data_name="mnist", num_classes=10, class_names=(), class_counts=torch.tensor([]),
        split=images.__getitem__, load_test=lambda: images["test"],
    )  # fmt: skip
    file = StudyFile("", {"a": {}, "b": {}}, [0], stage=stage)  # type: ignore[arg-type]
    study: Any = SimpleNamespace(trials=SimpleNamespace(total=lambda: 100), file=file, folder=Path("runs/gamma"))
    _announce(study, 0, 0, data)
    assert f"100 trainings, 0 of them done; up to {megabytes} MB" in capsys.readouterr().out


LOSS, CROSS_ENTROPY = "model.init_args.loss", "class_path: losslab.losses.CrossEntropyLoss"
GAMMAS = f"arms: {{focal: {{{LOSS}: {{class_path: losslab.losses.FocalLoss}}}}}}\n"
UNIFORM = "{class_path: optuna.distributions.FloatDistribution, init_args: {low: 0, high: 2}}"
FREQUENCY = f"{CROSS_ENTROPY}, init_args: {{class_weights: {{class_path: losslab.losses.InverseFrequency}}}}"


def check(study: str) -> dict[str, str]:
    """Check a study of the tiny experiment, as before its first training, and return the digests of its code."""
    Path("tiny.yaml").write_text(small_studies.EXPERIMENT)
    Path("study.yaml").write_text(f"experiment: tiny.yaml\nseeds: [0]\n{study}")
    file = read_study(Path("study.yaml"), {})
    command_line = CommandLine(["--config", file.experiment], "losslab sweep")
    return _check_settings(Study(file, Path("runs/study"), command_line))[-1]


def test_the_code_of_a_study_is_that_of_its_settings_and_not_of_what_every_arm_replaces() -> None:
    code = check(f"arms: {{plain: {{{LOSS}: {{{CROSS_ENTROPY}}}}}}}\ngrid: {{data.init_args.batch_size: [20]}}")
    assert {"losslab.losses.CrossEntropyLoss", "losslab.models.MLP", "tiny_digits.TinyDigits"} <= code.keys()
    assert "losslab.losses.FocalLoss" not in code


@pytest.mark.parametrize(
    ("study", "settings"),
    [
        (f"{GAMMAS}monitor: val/loss\ngrid: {{{LOSS}.init_args.gamma: [0, 2]}}", "focal gamma=0 and focal gamma=2"),
        (f"{GAMMAS}family: [val/loss]\ngrid: {{{LOSS}.init_args.gamma: [0, 2]}}", "focal gamma=0 and focal gamma=2"),
        (f"{GAMMAS}monitor: val/loss\ntrials: 2\nspace: {{{LOSS}.init_args.gamma: {UNIFORM}}}", "focal gamma=0 and"),
        (
            f"arms: {{plain: {{{LOSS}: {{{CROSS_ENTROPY}}}}}, smooth: {{{LOSS}: {{{CROSS_ENTROPY}, "
            "init_args: {label_smoothing: 0.1}}}}\nmonitor: val/loss",
            "plain and smooth",
        ),
        (
            f"arms: {{weighted: {{{LOSS}: {{{FREQUENCY}}}}}}}\nmonitor: val/loss\n"
            "grid: {data.init_args.imbalance: [1, 0.1]}",  # other frequencies are other weights
            "weighted imbalance=1 and weighted imbalance=0.1",
        ),
        (
            "arms: {own: {model.class_path: own_steps.MakesItsLoss}}\nmonitor: val/loss\n"
            "grid: {model.init_args.gamma: [0, 5]}",
            "own gamma=0 and own gamma=5",
        ),
    ],
    ids=["gammas", "family", "search", "label smoothing", "weights by frequency", "a network that makes its loss"],
)
def test_losses_on_different_scales_are_refused_as_a_metric(study: str, settings: str) -> None:
    with pytest.raises(
        UserError, match=r"is val/loss, but settings differ in their loss.*such as val/f1/macro"
    ) as told:
        check(study)
    assert settings in str(told.value)


@pytest.mark.parametrize(
    "grid",
    ["trainer.max_epochs: [1, 2]", "data.init_args.imbalance: [1, 0.1]", "model.init_args.dropout: [0, 0.5]"],
)
def test_the_values_of_one_loss_compare_any_other_settings(grid: str) -> None:
    check(f"{GAMMAS}monitor: val/loss\nfamily: [val/loss]\ngrid: {{{grid}}}")
    check(f"{GAMMAS}monitor: val/ece\ngrid: {{{LOSS}.init_args.gamma: [0, 2]}}")


def test_what_leaves_the_loss_as_it_is_does_not_keep_its_values_from_being_compared() -> None:
    weighted = f"arms: {{weighted: {{{LOSS}: {{{FREQUENCY}}}}}}}"
    check(f"{weighted}\nmonitor: val/loss\ngrid: {{data.init_args.batch_size: [20, 40]}}")
    check(f"arms: {{left_out: {{{LOSS}: null}}, written: {{{LOSS}: {{{CROSS_ENTROPY}}}}}}}\nmonitor: val/loss")


def test_a_loss_or_data_that_cannot_be_trained_on_are_refused_with_the_setting_before_the_first_training() -> None:
    nll, ldam = (f"{{{LOSS}: {{class_path: {name}}}}}" for name in ("torch.nn.NLLLoss", "losslab.losses.LDAMLoss"))
    with pytest.raises(UserError, match=r"^setting nll: a loss is called with .*NLLLoss takes log-probabilities"):
        check(f"arms: {{ldam: {ldam}, nll: {nll}}}")
    check(f"arms: {{ldam: {ldam}}}\ngrid: {{data.init_args.imbalance: [null, 0.1]}}")  # which asks for frequencies
    with pytest.raises(UserError, match=r"^setting val_size=1000: data.val_size must be"):
        check(f"arms: {{ldam: {ldam}}}\ngrid: {{data.init_args.val_size: [50, 1000]}}")


def test_settings_that_ignore_different_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"ignore different labels .*Give their losses the same ignore_index"):
        check(f"{GAMMAS}grid: {{{LOSS}.init_args.ignore_index: [null, 9]}}")
    check(f"{GAMMAS}grid: {{{LOSS}.init_args.ignore_index: [9], {LOSS}.init_args.gamma: [0, 1]}}")
    torchs = f"{{{LOSS}: {{class_path: torch.nn.CrossEntropyLoss}}}}"  # whose ignore_index is -100
    check(f"arms: {{ours: {{{LOSS}: {{{CROSS_ENTROPY}}}}}, torchs: {torchs}}}")


@pytest.mark.parametrize(
    ("seeds", "arms", "family", "told"),
    [
        (12, 35, ["val/precision/macro", "val/recall/macro"], ""),  # 34 settings in three metrics: 102 comparisons
        (
            12,
            36,
            ["val/precision/macro", "val/recall/macro"],
            "105 comparisons (35 settings in 3 metrics), which takes 13",
        ),
        (2, 2, ["val/f1/macro"], "2 seeds can show no difference in a family of 1 comparisons"),
        (6, 2, ["val/f1/macro"], ""),
        (2, 1, ["val/f1/macro"], ""),  # nothing is compared
    ],
)
def test_seeds_that_allow_no_verdict_are_told(
    seeds: int, arms: int, family: list[str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = StudyFile("", {f"a{n}": {} for n in range(arms)}, [*range(seeds)], baseline={"arm": "a0"}, family=family)
    data: Any = SimpleNamespace(class_names=("cat", "dog"), class_counts=torch.tensor([50, 5]))
    say_seeds_needed(file, data)
    assert [told in record.getMessage() for record in caplog.records] == [True] * bool(told)
    file.baseline = None
    say_seeds_needed(file, data)
    assert len(caplog.records) == bool(told)


def test_few_seeds_are_told_before_the_first_training(
    own_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trains(*_: Any, **__: Any) -> None:
        raise UserError("it trains")

    monkeypatch.setattr(Study, "run", trains)
    Path("tiny.yaml").write_text(small_studies.EXPERIMENT)
    Path("study.yaml").write_text(small_studies.LOSSES)
    assert main(["sweep", "--config", "study.yaml"]) == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "NOTICE: 2 seeds can show no difference in a family of 6 comparisons (2 settings in 3"
    )
