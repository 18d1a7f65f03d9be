"""Between cross-entropy and the mean absolute error."""

import math

import pytest
import torch
import torch.nn.functional as F

from losslab.losses import CrossEntropyLoss, GeneralizedCrossEntropyLoss

LOGITS = 2 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(40) % 6


def test_q_1_is_half_the_absolute_error() -> None:
    p = LOGITS.softmax(1)
    absolute = (p - F.one_hot(LABELS, 6)).abs().sum(1)
    torch.testing.assert_close(GeneralizedCrossEntropyLoss(1.0, "none")(LOGITS, LABELS), absolute / 2)


def test_q_to_0_is_cross_entropy() -> None:
    loss = CrossEntropyLoss("none")(LOGITS, LABELS)
    for q in (1e-2, 1e-4, 1e-6):
        # (1 - e^(-q l)) / q = l - q l^2 / 2 + ...
        assert ((loss - GeneralizedCrossEntropyLoss(q, "none")(LOGITS, LABELS)).abs() <= q * loss**2).all()


@pytest.mark.parametrize("q", [0.25, 0.75, 1.0])
def test_gradient_is_that_of_cross_entropy_times_p_to_the_q(q: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(GeneralizedCrossEntropyLoss(q, "sum")(logits, LABELS), logits)
    p = LOGITS.softmax(1)
    torch.testing.assert_close(gradient, p.gather(1, LABELS[:, None]) ** q * (p - F.one_hot(LABELS, 6)))


def test_it_is_bounded_by_1_over_q() -> None:
    wrong = torch.tensor([[1e4, 0.0]])
    assert GeneralizedCrossEntropyLoss(0.5)(wrong, torch.tensor([1])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.5, math.nan])
def test_q_out_of_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"q must be in \(0, 1\], got"):
        GeneralizedCrossEntropyLoss(q)
