"""A loss is built again from the plain values that describe it."""

import json

import pytest
import torch
from loss_examples import COUNTS, Example
from torch import nn

from losslab.losses import (
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    EffectiveNumber,
    FocalLoss,
    InverseFrequency,
    LDAMLoss,
    build_loss,
    describe_loss,
)


class Own(FocalLoss):
    """A user's class."""


def again(loss: nn.Module) -> nn.Module:
    """The loss, described, through JSON and back."""
    built = build_loss(json.loads(json.dumps(describe_loss(loss))))
    built.set_class_counts(COUNTS[:5])
    return built


def same_values(loss: nn.Module, other: nn.Module) -> bool:
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 5, generator=random), torch.randint(5, (40,), generator=random)
    return torch.equal(loss(logits, labels), other(logits, labels))


def test_every_loss_comes_back_with_its_class_and_its_values(loss: Example) -> None:
    if describe_loss(loss.make(5)) is None:
        pytest.skip("a loss of the user's own, which a checkpoint does not build")
    policies = loss.all_policies(5)
    for made in (loss.make(5), loss.make(5, **policies | ({"ignore_index": 4} if "ignore_index" in policies else {}))):
        other = again(made)
        assert type(other) is type(made)
        assert same_values(made, other)


@pytest.mark.parametrize("weighting", [InverseFrequency(), EffectiveNumber(0.99)], ids=repr)
def test_a_weighting_comes_back_as_the_rule_and_not_as_its_weights(weighting) -> None:
    parts = [CrossEntropyLoss(class_weights=weighting), DiceLoss(class_weights=[1.0, 2.0, 3.0, 4.0, 5.0])]
    loss = CompoundLoss(parts, weights=[0.5, 2.0])
    loss.set_class_counts(COUNTS[:5])
    other = again(loss)
    assert repr(other.losses[0].weighting) == repr(weighting)
    assert same_values(loss, other)


def test_a_hyper_parameter_that_was_changed_comes_back_changed() -> None:
    loss = CompoundLoss([FocalLoss(2.0), LDAMLoss()])
    loss.set_class_counts(COUNTS[:5])
    loss.losses[0].gamma.fill_(4)
    loss.weights.copy_(torch.tensor([0.25, 3.0]))
    other = again(loss)
    assert other.losses[0].gamma == 4
    assert same_values(loss, other)


@pytest.mark.parametrize(
    "other",
    [nn.CrossEntropyLoss(), nn.functional.cross_entropy, Own(), CompoundLoss([CrossEntropyLoss(), Own()]), None],
)
def test_an_object_that_is_not_losslabs_is_not_described(other) -> None:
    assert describe_loss(other) is None


@pytest.mark.parametrize(
    "description",
    [
        {"class_path": "os.system", "init_args": {}},
        {"class_path": "losslab.losses.nn", "init_args": {}},
        {"class_path": "losslab.losses.Missing", "init_args": {}},
        {"class_path": "losslab.losses.InverseFrequency", "init_args": {}},
    ],
    ids=lambda given: given["class_path"],
)
def test_nothing_but_a_loss_of_losslab_is_built(description) -> None:
    with pytest.raises(ValueError, match=r"losslab\.losses"):
        build_loss(description)
