"""A training joins a population only if the population gives it the numbers that it has alone."""

import copy
import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from own_steps import Private
from torch import nn

from losslab.cli import main
from losslab.losses import FocalLoss
from losslab.run import CommandLine, Config, Parts, read_checkpoint
from losslab.study import Result, read_results
from losslab.sweep.eligibility import loss_attributes, shared_attributes, shared_model_key, why_alone

ADAM = "{class_path: torch.optim.Adam, init_args: {lr: 0.01}}"
DECAYING = "{class_path: torch.optim.AdamW, init_args: {lr: 0.01, weight_decay: 1.0}}"
EXPERIMENT = f"""\
model:
  class_path: losslab.models.MLP
  init_args: {{hidden: [16], optimizer: {ADAM}}}
data:
  class_path: tiny_digits.TinyDigits
  init_args: {{split_seed: 0}}
trainer: {{max_epochs: 2, accelerator: cpu, precision: 64-true, enable_progress_bar: false}}
"""

ALONE = {
    "StandsStill": "StandsStill overrides training_step",
    "StandsStillByInstance": "StandsStillByInstance overrides training_step",
    "Clips": "Clips overrides configure_gradient_clipping",
    "Negates": "Negates overrides on_after_batch_transfer",
    "Defers": "Defers overrides on_train_epoch_start",
    "Decays": "Decays overrides configure_optimizers",
    "Hooked": "Hooked.network has hooks",
    "GradientHooked": "GradientHooked.network.1 has parameters with hooks",
    "NormFrozen": "NormFrozen.network.2 is in eval mode",
    "SkipsAtRandom": "a step of SkipsAtRandom draws random numbers from Python or NumPy",
    "Masked": None,  # Its seeds have other masks: other populations, of one member each
    "Counting": "loss._calls of MLP changes in a step, but is no parameter or buffer",
    "ReadsValues": "RuntimeError: vmap: It looks like you're calling .item()",
    "Remembering": "Remembering assigns a new tensor to mean",
    "Lion": "Lion.step may act on all of its parameters at once",
    "NegatedDigits": "NegatedDigits overrides on_after_batch_transfer",
    "Shrinks": "trainer.callbacks is Shrinks",
    "SeldomValidated": "trainer.check_val_every_n_epoch is 2",
}
TOGETHER = ("Frozen", "WithUnusedHead", "Tied", "RememberingInPlace", "SmoothsInTraining", "Adagrad", "Limited")
QUICK = ("StandsStill", "Counting", "ReadsValues", "WithUnusedHead", "SmoothsInTraining")
"""The arms of a study that takes seconds. Three are losses of one network: two leave the third as a population."""
LOSSES = ("Counting", "ReadsValues", "Remembering", "RememberingInPlace", "SmoothsInTraining")


def arm(name: str) -> str:
    match name:
        case "Lion" | "Adagrad":
            kind = "own_steps.Lion" if name == "Lion" else "torch.optim.Adagrad"
            return f"model.init_args.optimizer: {{class_path: {kind}}}"
        case "Shrinks":
            return "trainer.callbacks: [{class_path: own_steps.Shrinks}]"
        case "SeldomValidated":
            return "trainer.check_val_every_n_epoch: 2"
        case "Limited":
            return "trainer.limit_train_batches: 3, trainer.limit_val_batches: 1, data.init_args.eval_batch_size: 20"
        case _ if name in LOSSES:
            return f"model.init_args.loss: {{class_path: own_steps.{name}}}"
        case "NegatedDigits":
            return "data: {class_path: own_steps.NegatedDigits}"
    defers = ", loss: {class_path: losslab.losses.FocalLoss}" if name == "Defers" else ""
    optimizer = DECAYING if name == "WithUnusedHead" else ADAM
    return f"model: {{class_path: own_steps.{name}, init_args: {{hidden: [16], optimizer: {optimizer}{defers}}}}}"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[str]]]:
    """Run, once, the study of the arms to which `name` belongs as population 1 and as population 10.

    Returns the folder runs/ with by-1 and by-10, and the lines that the latter printed.
    """

    @cache
    def run(quick: bool) -> tuple[Path, list[str]]:
        folder = tmp_path_factory.mktemp("eligibility")
        arms = "".join(f"  {name}: {{{arm(name)}}}\n" for name in (*ALONE, *TOGETHER) if (name in QUICK) == quick)
        (folder / "tiny.yaml").write_text(EXPERIMENT)
        (folder / "own.yaml").write_text(
            f"experiment: tiny.yaml\narms:\n{arms}grid: {{data.init_args.batch_size: [50]}}\nseeds: [0, 1]\nkeep: all\n"
        )
        printed: list[str] = []
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have overridden `on_after_batch_transfer`")
            warnings.filterwarnings("ignore", "Found 1 module.* in eval mode")
            patch.chdir(folder)
            patch.setattr("losslab.sweep.display.Display.print", lambda _, line: printed.append(line))
            for size in (1, 10):
                printed.clear()
                assert main(["sweep", "--config", "own.yaml", "--name", f"by-{size}", "--population", str(size)]) == 0
        return folder / "runs", printed

    return lambda name: run(name in QUICK)


Studies = Callable[[str], tuple[Path, list[str]]]


def results(studies: Studies, name: str) -> list[tuple[Result, Result]]:
    """The results of an arm, one a seed: alone, and with population 10."""
    by_1, by_10 = (
        [result for result in read_results(studies(name)[0] / f"by-{size}") if result["setting"]["arm"] == name]
        for size in (1, 10)
    )
    assert [result["seed"] for result in by_1] == [0, 1]
    return list(zip(by_1, by_10, strict=True))


def marked(names: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked([*ALONE, *TOGETHER]))
def test_a_study_has_the_same_numbers_as_a_population(studies: Studies, name: str) -> None:
    for alone, together in results(studies, name):
        assert ("population" in together) == (name in TOGETHER)
        assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-9)
        if name.startswith("StandsStill"):
            assert together["metrics"]["val/acc"] < 0.2


@pytest.mark.parametrize("name", marked(name for name, reason in ALONE.items() if reason))
def test_it_is_said_once_why_trainings_are_trained_alone(studies: Studies, name: str) -> None:
    said = [line for line in studies(name)[1] if line.startswith(ALONE[name] or "") and line.endswith("trained alone.")]
    assert len(said) == 1


@pytest.mark.parametrize("name", marked(TOGETHER))
def test_a_members_checkpoint_has_the_weights_of_its_training_alone(studies: Studies, name: str) -> None:
    """Also those that are frozen, tied, or get no gradient, and a loss's buffer; and their memory alone."""
    runs = studies(name)[0]
    for alone, together in results(studies, name):
        solo, member = (
            read_checkpoint(runs / by / result["run"] / "checkpoints" / "last.ckpt")["state_dict"]
            for by, result in (("by-1", alone), ("by-10", together))
        )
        assert solo.keys() == member.keys()
        for key, tensor in member.items():
            torch.testing.assert_close(tensor, solo[key], rtol=0, atol=1e-8)
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


TINY = [
    "--model", "MLP", "--model.hidden", "[16]", "--data", "tiny_digits.TinyDigits", "--data.split_seed", "0",
    "--model.loss", "FocalLoss",
]  # fmt: skip


def built(*changes: str) -> tuple[Config, Parts]:
    command_line = CommandLine([*TINY, *changes], "losslab sweep")
    return command_line.resolved(), command_line.build()


def key(*changes: str) -> str | None:
    config, parts = built(*changes)
    parts.data.setup("fit")
    return None if why_alone(config, parts) else shared_model_key(config, parts)


@pytest.mark.parametrize(
    "changes",
    [
        ("--model.loss.gamma", "5"),
        ("--model.loss", "CrossEntropyLoss"),
        ("--model.loss.label_smoothing", "0.1"),
        ("--model.loss.reduction", "sum"),
        ("--model.loss.class_weights", "InverseFrequency"),
        ("--model.loss", "torch.nn.CrossEntropyLoss"),
        ("--seed_everything", "3"),
        ("--data.label_noise", "0.1", "--data.split_seed", "null", "--seed_everything", "3"),
        ("--data.validation", "like_training"),
        ("--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", "0.5"),
        ("--model.optimizer", "torch.optim.Adam", "--model.optimizer.weight_decay", "0.5"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_what_is_stacked_or_each_losss_or_optimisers_own_may_differ(changes: tuple[str, ...]) -> None:
    adam = ("--model.optimizer", "torch.optim.Adam") if "--model.optimizer" in changes else ()
    assert key(*adam) == key(*changes) is not None


@pytest.mark.parametrize(
    "changes",
    [
        ("--model.hidden", "[8]"),
        ("--model.dropout", "0.5"),
        ("--model.loss.ignore_index", "3"),
        ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"),
        ("--data.batch_size", "32"),
        ("--data.imbalance", "0.2"),
        ("--data.augmentation", "{shift: 1}"),
        ("--trainer.max_epochs", "7"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_all_else_makes_another_population(changes: tuple[str, ...]) -> None:
    assert key(*changes) not in (key(), None)


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    "drawn", [("--data.imbalance", "0.2"), ("--data.label_noise", "0.1"), ("--data.split_seed", "null")]
)
def test_seeds_that_draw_other_images_may_share_a_population(drawn: tuple[str, str]) -> None:
    assert key(*drawn, "--seed_everything", "1") == key(*drawn, "--seed_everything", "2") is not None


@pytest.mark.parametrize(
    "changes",
    [
        ("--trainer.gradient_clip_val", "1"),
        ("--trainer.accumulate_grad_batches", "2"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_what_acts_on_all_weights_at_once_is_trained_alone(changes: tuple[str, ...]) -> None:
    assert key(*changes) is None


def test_a_number_that_is_no_buffer_makes_another_group_of_losses() -> None:
    """torch's own loss keeps its smoothing as a Python number, which vmap would take from the first member."""
    kinds: list[Callable[[float], Any]] = [Private, lambda smoothing: nn.CrossEntropyLoss(label_smoothing=smoothing)]
    for kind in kinds:
        assert loss_attributes(kind(0.1)) != loss_attributes(kind(0.2))
        assert loss_attributes(kind(0.1)) == loss_attributes(kind(0.1))
    assert loss_attributes(FocalLoss(1.0)) == loss_attributes(FocalLoss(2.0))  # a buffer


def test_a_network_that_shares_weights_with_its_loss_is_named() -> None:
    """The two are stacked apart."""
    config, parts = built()
    parts.model.loss.head = parts.model.network[-1]
    assert why_alone(config, parts) == "MLP shares modules or tensors with its loss"


def test_what_members_share_is_compared_by_content() -> None:
    """Also what repr elides, functions that differ in what they enclose, and partial ones."""

    def holding(value: Any) -> dict[str, str]:
        module = nn.Identity()
        module.held = value
        return shared_attributes(module)

    def scaled_by(scale: float) -> Callable[[float], float]:
        return lambda value: scale * value

    long, other = torch.zeros(5000), torch.zeros(5000)
    other[2500] = 1
    assert repr(long) == repr(other)
    same = [torch.ones(3), [1, {"a": {2.5}}], scaled_by(2), partial(max, 1), FocalLoss(2), float("nan"), torch.relu]
    for value in same:
        assert holding(value) == holding(copy.deepcopy(value))
    for one, two in (
        (long, other),
        (scaled_by(2), scaled_by(3)),
        (partial(max, 1), partial(max, 2)),
        (1, 1.0),
        ([1], (1,)),
    ):
        assert holding(one) != holding(two)


@pytest.fixture(scope="module")
def plain() -> tuple[Config, Parts]:
    return built()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_steps", 5), ("max_time", "00:00:01:00"), ("fast_dev_run", True), ("overfit_batches", 1),
        ("val_check_interval", 2), ("check_val_every_n_epoch", 2), ("limit_val_batches", 0), ("limit_train_batches", 0),
        ("detect_anomaly", True), ("reload_dataloaders_every_n_epochs", 1), ("profiler", "simple"), ("min_epochs", 2),
        ("num_sanity_val_steps", 2), ("accumulate_grad_batches", 2), ("gradient_clip_val", 1), ("max_epochs", -1),
        ("precision", "16-mixed"), ("strategy", "ddp"), ("plugins", [{"class_path": "my.Plugin"}]),
    ],
)  # fmt: skip
def test_an_argument_of_the_trainer_that_acts_otherwise_on_a_population_is_named(
    plain: tuple[Config, Parts], argument: str, value: Any
) -> None:
    config, parts = plain
    assert why_alone(config, parts) is None
    shown = "Plugin" if argument == "plugins" else value
    assert argument in config["trainer"]
    assert why_alone(config | {"trainer": config["trainer"] | {argument: value}}, parts) == (
        f"trainer.{argument} is {shown}"
    )


def test_a_network_that_steps_itself_or_watches_its_gradients_is_named() -> None:
    config, parts = built()
    parts.model.automatic_optimization = False
    assert why_alone(config, parts) == "MLP has automatic_optimization = False"
    parts.model.automatic_optimization = True
    assert why_alone(config, parts) is None
    parts.model.training_step = lambda batch, batch_idx: None
    assert why_alone(config, parts) == "MLP overrides training_step"
    del parts.model.training_step
    next(parts.model.parameters()).register_post_accumulate_grad_hook(lambda parameter: None)
    assert "has parameters with hooks" in (why_alone(config, parts) or "")


def test_every_other_argument_of_the_trainer_must_have_its_default(plain: tuple[Config, Parts]) -> None:
    """Those that do are few, and listed; of any other, also one of a later Lightning, a value is refused."""
    config, parts = plain
    trainer = config["trainer"] | {"an_argument_of_the_future": "on"}
    assert why_alone(config | {"trainer": trainer}, parts) == "trainer.an_argument_of_the_future is on"
