"""Weights of false positives and false negatives."""

import math

import pytest
import torch
import torch.nn.functional as F

from losslab.losses import DiceLoss, TverskyLoss

LOGITS = 2 * torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(30) % 3  # class 3 is absent


def gradient(loss: torch.nn.Module) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, LABELS), logits)[0]


def test_one_half_each_is_dice() -> None:
    torch.testing.assert_close(TverskyLoss(0.5, 0.5)(LOGITS, LABELS), DiceLoss()(LOGITS, LABELS))
    torch.testing.assert_close(gradient(TverskyLoss(0.5, 0.5)), gradient(DiceLoss()))


def test_1_each_is_the_soft_jaccard_index() -> None:
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    overlap = (p * y).sum(0)
    jaccard = overlap / (p.sum(0) + y.sum(0) - overlap)
    torch.testing.assert_close(TverskyLoss(1, 1)(LOGITS, LABELS), 1 - jaccard[:3].mean())


def test_only_false_positives_is_precision_and_only_false_negatives_recall() -> None:
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    overlap = (p * y).sum(0)
    torch.testing.assert_close(TverskyLoss(1, 0)(LOGITS, LABELS), 1 - (overlap / p.sum(0))[:3].mean())
    torch.testing.assert_close(TverskyLoss(0, 1)(LOGITS, LABELS), 1 - (overlap / y.sum(0))[:3].mean())


def test_perfect_predictions_cost_nothing() -> None:
    assert TverskyLoss(0.3, 0.7)(1e4 * F.one_hot(LABELS, 4).float(), LABELS) == 0


def test_derivatives_are_those_of_the_values() -> None:
    at = LOGITS[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: TverskyLoss(0.3, 0.7)(z, LABELS[:6]), at)
    assert torch.autograd.gradgradcheck(lambda z: TverskyLoss(0.3, 0.7)(z, LABELS[:6]), at)


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 1), (1, -0.1), (0, 0), (math.nan, 1), (1, math.inf)])
def test_weights_out_of_range_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="alpha and beta must be >= 0, finite and not both 0, got"):
        TverskyLoss(alpha, beta)
