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
    value = CrossEntropyLoss()(LOGITS, LABELS)
    torch.testing.assert_close(PolyLoss(0.0)(LOGITS, LABELS), value, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient(PolyLoss(0.0)), gradient(CrossEntropyLoss()), rtol=0, atol=1e-15)


def test_epsilon_minus_1_takes_the_first_term_away() -> None:
    p = LOGITS.softmax(1).gather(1, LABELS[:, None])[:, 0]
    converges = p > 0.02
    assert converges.sum() > 20
    tail = sum((1 - p[converges]) ** j / j for j in range(2, 1000))
    torch.testing.assert_close(PolyLoss(-1.0, reduction="none")(LOGITS, LABELS)[converges], tail)


@pytest.mark.parametrize("epsilon", [-1.0, -0.5, 1.0, 3.0])
def test_gradient_is_that_of_cross_entropy_times_1_plus_epsilon_p(epsilon: float) -> None:
    p = LOGITS.softmax(1)
    factor = 1 + epsilon * p.gather(1, LABELS[:, None])
    expected = factor * (p - F.one_hot(LABELS, 6)) / 40
    torch.testing.assert_close(gradient(PolyLoss(epsilon)), expected, rtol=0, atol=1e-14)


def test_with_epsilon_minus_1_confident_images_cost_half_the_square_of_their_error() -> None:
    """-log p - (1 - p) would lose all digits: 1 - p is 4e-18 at the last one."""
    margins = torch.linspace(2, 40, 77).double().requires_grad_()
    logits = torch.stack([margins, torch.zeros(77).double()], 1)
    loss = PolyLoss(-1.0, reduction="none")(logits, torch.zeros(77, dtype=torch.int64))
    error = (-margins.detach()).sigmoid()
    assert ((loss / (error**2 / 2) - 1) <= error + 1e-14).all()
    assert ((loss / (error**2 / 2) - 1) >= 0.6 * error - 1e-14).all()
    (slope,) = torch.autograd.grad(loss.sum(), margins)
    torch.testing.assert_close(slope, -(error**2), rtol=1e-12, atol=0)
    assert (loss.diff() < 0).all()


@pytest.mark.parametrize("epsilon", [-1.1, math.nan, math.inf])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be >= -1 and finite, got"):
        PolyLoss(epsilon)
