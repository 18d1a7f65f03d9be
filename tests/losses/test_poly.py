"""Poly-1 is cross-entropy with another first term of its expansion."""

import math

import pytest
import torch
import torch.nn.functional as F

from losslab.losses import CrossEntropyLoss, PolyLoss

LOGITS = 2 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(40) % 6


def gradient(loss: torch.nn.Module) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, LABELS), logits)[0]


def test_epsilon_0_is_cross_entropy() -> None:
    torch.testing.assert_close(PolyLoss(0.0)(LOGITS, LABELS), CrossEntropyLoss()(LOGITS, LABELS))
    torch.testing.assert_close(gradient(PolyLoss(0.0)), gradient(CrossEntropyLoss()))


def test_epsilon_minus_1_takes_the_first_term_away() -> None:
    p = LOGITS.softmax(1).gather(1, LABELS[:, None])[:, 0]
    converges = p > 0.02
    assert converges.sum() > 20
    tail = sum((1 - p[converges]) ** j / j for j in range(2, 1000))
    torch.testing.assert_close(PolyLoss(-1.0, "none")(LOGITS, LABELS)[converges], tail)


@pytest.mark.parametrize("epsilon", [-1.0, -0.5, 1.0, 3.0])
def test_gradient_is_that_of_cross_entropy_times_1_plus_epsilon_p(epsilon: float) -> None:
    p = LOGITS.softmax(1)
    factor = 1 + epsilon * p.gather(1, LABELS[:, None])
    torch.testing.assert_close(gradient(PolyLoss(epsilon)), factor * (p - F.one_hot(LABELS, 6)) / 40)


@pytest.mark.parametrize("epsilon", [-1.1, math.nan, math.inf])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be >= -1 and finite, got"):
        PolyLoss(epsilon)
