"""A weighted sum of losses, and nothing else."""

import pytest
import torch

from losslab.losses import CompoundLoss, CrossEntropyLoss, DiceLoss, LogitAdjustedLoss

LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(12) % 3


def test_it_is_the_weighted_sum_in_value_and_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    ours = CompoundLoss([CrossEntropyLoss(), DiceLoss()], [1.0, 0.5])(logits, LABELS)
    theirs = CrossEntropyLoss()(logits, LABELS) + 0.5 * DiceLoss()(logits, LABELS)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_its_parts_hear_of_the_frequencies() -> None:
    loss = CompoundLoss([LogitAdjustedLoss(), DiceLoss(class_weights="inverse_frequency")])
    loss.set_class_counts(torch.tensor([10, 20, 30]))
    assert loss(LOGITS, LABELS).isfinite()


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ValueError, match="losses must be two or more with reduction 'mean' or 'sum'"):
        CompoundLoss([CrossEntropyLoss()])
    with pytest.raises(ValueError, match="losses must be two or more with reduction 'mean' or 'sum'"):
        CompoundLoss([CrossEntropyLoss(), DiceLoss(reduction="none")])
    with pytest.raises(ValueError, match="weights must be 2 finite numbers >= 0, one for each loss, got"):
        CompoundLoss([CrossEntropyLoss(), DiceLoss()], [1.0, -1.0])
