"""A weighted sum of losses, and nothing else."""

import pytest
import torch
from torch import nn

from losslab.losses import CompoundLoss, CrossEntropyLoss, DiceLoss, FocalLoss, InverseFrequency, LogitAdjustedLoss

LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(12) % 3


def test_it_is_the_weighted_sum_in_value_and_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    ours = CompoundLoss([CrossEntropyLoss(), DiceLoss()], [1.0, 0.5])(logits, LABELS)
    theirs = CrossEntropyLoss()(logits, LABELS) + 0.5 * DiceLoss()(logits, LABELS)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_a_weight_of_0_leaves_the_other_loss() -> None:
    losses = CrossEntropyLoss(), DiceLoss()
    for weights, expected in (((1.0, 0.0), losses[0]), ((0.0, 1.0), losses[1])):
        values = [loss(LOGITS.clone().requires_grad_(), LABELS) for loss in (CompoundLoss(losses, weights), expected)]
        assert values[0] == values[1]


def test_a_compound_may_be_part_of_another() -> None:
    inner = CompoundLoss([CrossEntropyLoss(ignore_index=-100), DiceLoss(ignore_index=-100)])
    outer = CompoundLoss([inner, FocalLoss(ignore_index=-100)], [2.0, 0.5])
    labels = torch.where(LABELS == 1, -100, LABELS)
    expected = 2 * inner(LOGITS, labels) + 0.5 * FocalLoss(ignore_index=-100)(LOGITS, labels)
    torch.testing.assert_close(outer(LOGITS, labels), expected)


def test_its_parts_hear_of_the_frequencies() -> None:
    loss = CompoundLoss([LogitAdjustedLoss(), DiceLoss(class_weights=InverseFrequency())])
    loss.set_class_counts(torch.tensor([10, 20, 30]))
    assert loss(LOGITS, LABELS).isfinite()
    assert set(loss.state_dict()) == {"class_counts", "losses.0.class_counts", "losses.1.class_counts"}


def test_without_frequencies_the_part_that_needs_them_says_so() -> None:
    with pytest.raises(ValueError, match=r"class_weights=InverseFrequency\(\) needs the classes' frequencies"):
        CompoundLoss([CrossEntropyLoss(), DiceLoss(class_weights=InverseFrequency())])(LOGITS, LABELS)


def test_what_cannot_be_summed_is_refused() -> None:
    for losses in ([CrossEntropyLoss()], [CrossEntropyLoss(), DiceLoss(reduction="none")], [nn.NLLLoss(), DiceLoss()]):
        with pytest.raises(ValueError, match="losses must be 2 or more of losslab's, with reduction 'mean' or"):
            CompoundLoss(losses)
    with pytest.raises(ValueError, match="weights must be 2 finite numbers >= 0, one for each loss, got"):
        CompoundLoss([CrossEntropyLoss(), DiceLoss()], [1.0, -1.0])
    with pytest.raises(ValueError, match=r"losses must have one ignore_index, got \[None, -100\]"):
        CompoundLoss([CrossEntropyLoss(), DiceLoss(ignore_index=-100)])
