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


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.7, 0.3), (1, 0), (0, 1), (2, 3)])
def test_its_gradient_is_the_closed_form(alpha: float, beta: float) -> None:
    """dl/dp = -(y - T (alpha + (1 - alpha - beta) y)) / (m S), T = TP / S; dl/dz = p (dl/dp - sum_c p dl/dp)."""
    loss = TverskyLoss(alpha, beta)
    alpha, beta = loss.alpha.item(), loss.beta.item()  # as float32 holds them
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    tp = (p * y).sum(0)
    size = tp + alpha * (p * (1 - y)).sum(0) + beta * ((1 - p) * y).sum(0)
    of_p = -(y - tp / size * (alpha + (1 - alpha - beta) * y)) / (3 * size)
    of_p[:, 3] = 0
    torch.testing.assert_close(gradient(loss), p * (of_p - (of_p * p).sum(1, keepdim=True)), rtol=0, atol=1e-14)


def test_a_larger_alpha_predicts_less_and_a_larger_beta_more() -> None:
    """The gradient in the bias of class 0, of images that are half of class 0, all at p = 1/2."""
    pulls = []
    for alpha, beta in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2)):
        bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        loss = TverskyLoss(alpha, beta, reduction="none")(bias.expand(4, -1), torch.tensor([0, 0, 1, 1]))[0]
        pulls.append(torch.autograd.grad(loss, bias)[0][0].item())
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[2]


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 1), (1, -0.1), (0, 0), (math.nan, 1), (1, math.inf)])
def test_weights_out_of_range_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="alpha and beta must be >= 0, finite and not both 0, got"):
        TverskyLoss(alpha, beta)
