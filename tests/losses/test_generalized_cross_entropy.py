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
    torch.testing.assert_close(GeneralizedCrossEntropyLoss(1.0, reduction="none")(LOGITS, LABELS), absolute / 2)


def test_q_1_is_the_dice_of_the_whole_batch_taken_as_one_set() -> None:
    """1 - 2 I / S with I and S summed over classes too: what "micro" dice is, half the absolute error."""
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 6).double()
    micro = 1 - 2 * (p * y).sum() / (p.sum() + y.sum())
    torch.testing.assert_close(GeneralizedCrossEntropyLoss(1.0)(LOGITS, LABELS), micro)
    torch.testing.assert_close(micro, 1 - p.gather(1, LABELS[:, None]).mean())


def test_q_to_0_is_cross_entropy() -> None:
    loss = CrossEntropyLoss("none")(LOGITS, LABELS)
    for q in (1e-2, 1e-4, 1e-6):
        # (1 - e^(-q l)) / q = l - q l^2 / 2 + ...
        assert ((loss - GeneralizedCrossEntropyLoss(q, reduction="none")(LOGITS, LABELS)).abs() <= q * loss**2).all()


@pytest.mark.parametrize("q", [0.25, 0.75, 1.0])
def test_gradient_is_that_of_cross_entropy_times_p_to_the_q(q: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(GeneralizedCrossEntropyLoss(q, reduction="sum")(logits, LABELS), logits)
    p = LOGITS.softmax(1)
    expected = p.gather(1, LABELS[:, None]) ** q * (p - F.one_hot(LABELS, 6))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("margin", [10.0, 20.0, 40.0])
def test_it_lets_go_of_hopeless_images(margin: float) -> None:
    logits = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(GeneralizedCrossEntropyLoss(0.5)(logits, torch.tensor([1])), logits)
    assert gradient[0, 0].item() == pytest.approx(math.exp(-margin / 2), rel=1e-3)


def test_it_is_bounded_by_1_over_q() -> None:
    wrong = torch.tensor([[1e4, 0.0]])
    assert GeneralizedCrossEntropyLoss(0.5)(wrong, torch.tensor([1])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("q", [0.0, -0.5, 1.5, math.nan])
def test_q_out_of_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"q must be in \(0, 1\], got"):
        GeneralizedCrossEntropyLoss(q)
