"""Who may share a population."""

import pytest

from losslab.run.command_line import CommandLine
from losslab.sweep.kinship import kinship

TINY = ["--model", "MLP", "--model.hidden", "[16]", "--data", "tiny_digits.TinyDigits", "--model.loss", "FocalLoss"]


def kin(*changes: str) -> str | None:
    command_line = CommandLine([*TINY, *changes], "losslab sweep")
    return kinship(command_line.resolved(), command_line.build())


@pytest.mark.parametrize(
    "changes",
    [
        ("--model.loss.gamma", "5"),
        ("--seed_everything", "3"),
        ("--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", "0.5"),
        ("--model.optimizer", "torch.optim.Adam", "--model.optimizer.weight_decay", "0.5"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_what_is_stacked_or_each_optimisers_own_may_differ(changes: tuple[str, ...]) -> None:
    adam = ("--model.optimizer", "torch.optim.Adam") if "--model.optimizer" in changes else ()
    assert kin(*adam) == kin(*changes) is not None


@pytest.mark.parametrize(
    "changes",
    [
        ("--model.hidden", "[8]"),
        ("--model.dropout", "0.5"),
        ("--model.loss", "CrossEntropyLoss"),
        ("--model.loss.label_smoothing", "0.1"),
        ("--model.loss.reduction", "sum"),
        ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"),
        ("--data.batch_size", "32"),
        ("--data.label_noise", "0.1"),
        ("--trainer.max_epochs", "7"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_all_else_makes_another_population(changes: tuple[str, ...]) -> None:
    assert kin(*changes) not in (kin(), None)


@pytest.mark.usefixtures("own_folder")
def test_seeds_that_draw_other_images_make_other_populations() -> None:
    tail = ("--data.imbalance", "0.2")
    assert kin(*tail, "--seed_everything", "1") != kin(*tail, "--seed_everything", "2")
    assert kin(*tail, "--seed_everything", "1") == kin(*tail, "--seed_everything", "1", "--model.loss.gamma", "3")


@pytest.mark.parametrize(
    "changes",
    [
        ("--trainer.gradient_clip_val", "1"),
        ("--trainer.accumulate_grad_batches", "2"),
        ("--model.optimizer", "torch.optim.LBFGS"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("own_folder")
def test_what_acts_on_all_weights_at_once_is_trained_alone(changes: tuple[str, ...]) -> None:
    assert kin(*changes) is None


@pytest.mark.usefixtures("own_folder")
def test_a_number_that_is_no_buffer_is_never_shared() -> None:
    """torch's own loss keeps its smoothing as a Python number, which vmap would take from the first member."""
    torchs = ("--model.loss", "torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing")
    assert kin(*torchs, "0.1") != kin(*torchs, "0.2")
    assert kin(*torchs, "0.1") == kin(*torchs, "0.1", "--seed_everything", "3")
