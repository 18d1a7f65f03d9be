"""Focal loss of a softmax over many classes: its derivative in the logits (what question 5 does for two)."""

import pytest
import torch
import torch.nn.functional as F
from course_report.proof import GAMMAS, POINTS, agree, gradient, prove, random_logits, softmax
from sympy import diff, log, symbols

from losslab.losses import FocalLoss

g = symbols("gamma", positive=True)
Z = symbols("z1:4", real=True)
P = softmax(Z)


def focal(p):
    return -((1 - p) ** g) * log(p)


def factor(p):
    """A(p) = (1-p)^g - g p (1-p)^(g-1) log p, the ratio r(p, g) of focal's gradient to cross-entropy's."""
    return (1 - p) ** g - g * p * (1 - p) ** (g - 1) * log(p)


def test_its_gradient_is_cross_entropys_times_a_factor_of_p_t():
    """dL/dz_i = A(p_t) (p_i - [i = t]), here for three classes and t = 1."""
    for i in range(3):
        prove(diff(focal(P[0]), Z[i]), factor(P[0]) * (P[i] - (1 if i == 0 else 0)))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_its_gradient_is_that_of_losslab(gamma, label):
    """The derivatives of the formula, and A (p - onehot), against autograd of FocalLoss."""
    logits, labels = random_logits(POINTS, 3), torch.full((POINTS,), label)
    actual = gradient(FocalLoss(gamma, reduction="sum"), logits, labels)
    at = {g: gamma, **dict(zip(Z, logits.T, strict=True))}
    for i in range(3):
        agree(diff(focal(P[label]), Z[i]), at, actual[:, i])
        agree(factor(P[label]) * (P[i] - (1 if i == label else 0)), at, actual[:, i])


@pytest.mark.parametrize("gamma", GAMMAS)
def test_for_soft_targets_it_is_the_mean_over_labels(gamma):
    """L(z, t) = sum_k t_k L(z, k), so dL/dz = sum_k t_k A(p_k) (p - onehot(k))."""
    logits = random_logits(POINTS, 3)
    target = random_logits(POINTS, 3, seed=1).softmax(dim=1)
    t = symbols("t1:4")
    at = {g: gamma, **dict(zip(Z + t, [*logits.T, *target.T], strict=True))}
    actual = gradient(FocalLoss(gamma, reduction="sum"), logits, target)
    for i in range(3):
        agree(sum(t_k * diff(focal(p_k), Z[i]) for t_k, p_k in zip(t, P, strict=True)), at, actual[:, i])


def test_at_gamma_0_it_is_cross_entropys():
    """A(p) = 1: dL/dz = p - onehot(t), exactly."""
    p = symbols("p", positive=True)
    prove(factor(p).subs(g, 0), 1)
    logits, labels = random_logits(POINTS, 3), torch.arange(POINTS) % 3
    expected = logits.softmax(dim=1) - F.one_hot(labels, 3)
    torch.testing.assert_close(
        gradient(FocalLoss(0, reduction="sum"), logits, labels), expected, rtol=1e-12, atol=1e-14
    )
