"""Question 6, second part: what a high (S25) or low (S26) gamma does. p is p_t, the probability of the label."""

import math

import pytest
import torch
from course_report.proof import POINTS, gradient, prove, random_logits
from sympy import Symbol, diff, exp, limit, log, symbols

from losslab.losses import CrossEntropyLoss, FocalLoss

y, p, u = symbols("y p u", positive=True)
g, t = Symbol("gamma", nonnegative=True), Symbol("t", real=True)
FOCAL = -t * (1 - y) ** g * log(y) - (1 - t) * y**g * log(1 - y)
CROSS_ENTROPY = -t * log(y) - (1 - t) * log(1 - y)


def logits_of(*p_t):
    """Two logits (d, 0), with which label 0 has the probability p_t."""
    return torch.tensor([[math.log(p / (1 - p)), 0.0] for p in p_t], dtype=torch.float64)


def factor_in_losslab(p_t, gamma):
    """The weight of an image, (1 - p_t)^gamma: focal loss over cross-entropy."""
    z, label = logits_of(p_t), torch.tensor([0])
    return FocalLoss(gamma)(z, label) / CrossEntropyLoss()(z, label)


def test_the_factor_is_between_0_and_1_and_falls_with_gamma(counter_example):
    """(1 - p)^g = e^(-u g) with u = -log(1 - p) > 0: positive, 1 at g = 0, falling in g, for every p (S25)."""
    factor = exp(-u * g)
    prove(((1 - p) ** g).subs(p, 1 - exp(-u)), factor)
    assert factor.is_positive
    assert factor.subs(g, 0) == 1
    assert diff(factor, g).is_negative
    counter_example(
        "S25: when gamma is too high the factor becomes very large for predictions close to 0, so it grows beyond 1",
        at="p_t = .05, gamma = 10, factor",
        says=1,
        truth=factor_in_losslab(0.05, 10),
    )


def test_a_high_gamma_does_not_penalise_a_doubtful_positive_more(counter_example):
    """The loss, like the factor, falls with gamma (S25)."""
    z, label = logits_of(0.05), torch.tensor([0])
    counter_example(
        "S25: a high gamma penalises predictions that are not confident in the positive class heavily, at least as CE",
        at="p_t = .05, gamma = 10, loss",
        says=CrossEntropyLoss()(z, label),
        truth=FocalLoss(10)(z, label),
    )


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 10])
def test_every_gamma_treats_both_classes_alike(gamma):
    """L(1 - y, 1 - t) = L(y, t): nothing in gamma is about the positive class, that is alpha's task (S25, S26)."""
    prove(FOCAL.subs({y: 1 - y, t: 1 - t}, simultaneous=True), FOCAL)
    d = random_logits(POINTS)
    logits, labels = torch.stack([torch.zeros_like(d), d], dim=1), torch.arange(POINTS) % 2
    loss, mirrored = FocalLoss(gamma, reduction="none"), logits.flip(1)
    torch.testing.assert_close(loss(logits, labels), loss(mirrored, 1 - labels), rtol=1e-10, atol=1e-10)
    ours, theirs = gradient(loss, logits, labels), gradient(loss, mirrored, 1 - labels)
    torch.testing.assert_close(ours, theirs.flip(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("gamma", "sizes"),
    [
        (0, ["5.0e-01", "1.0e-01", "1.0e-02"]),
        (2, ["3.0e-01", "2.9e-03", "3.0e-06"]),
        (5, ["7.0e-02", "5.7e-06", "6.0e-12"]),
    ],
)
def test_a_high_gamma_stops_learning_while_p_is_moderate(gamma, sizes):
    """|dL/dz| at p_t = .5, .9 and .99, to two digits (S25): hence under-confidence, not fewer positives."""
    derivative = diff(-((1 - p) ** g) * log(p), p) * p * (1 - p)
    actual = gradient(FocalLoss(gamma, reduction="sum"), logits_of(0.5, 0.9, 0.99), torch.zeros(3, dtype=torch.int64))[
        :, 0
    ]
    for p_t, value, size in zip((0.5, 0.9, 0.99), actual, sizes, strict=True):
        assert float(value) == pytest.approx(float(derivative.subs({g: gamma, p: p_t})), rel=1e-10)
        assert f"{-value:.1e}" == size


def test_a_low_gamma_is_cross_entropy_for_both_labels():
    """As g -> 0 loss and gradient tend to those of cross-entropy; |L - CE| <= g u CE, as 1 - e^(-ug) <= ug (S26)."""
    for label in (0, 1):
        assert limit(FOCAL.subs(t, label), g, 0) == CROSS_ENTROPY.subs(t, label)
        prove(limit(diff(FOCAL.subs(t, label), y), g, 0), diff(CROSS_ENTROPY.subs(t, label), y))
    gap = u * g - (1 - exp(-u * g))  # 0 at g = 0, and its slope u (1 - e^(-ug)) is >= 0
    prove(gap.subs(g, 0), 0)
    prove(diff(gap, g), u * (1 - exp(-u * g)))
    z, labels = random_logits(POINTS, 2), torch.arange(POINTS) % 2
    p_t = z.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    ce, focal = CrossEntropyLoss("none")(z, labels), FocalLoss(1 / 64, reduction="none")(z, labels)
    assert (focal < ce).all()
    assert (ce - focal < -torch.log1p(-p_t) / 64 * ce).all()


def test_a_low_gamma_does_not_make_the_factor_too_small(counter_example):
    """It is the high gamma that does; and no overfitting to the negative class, since 0 and 1 are alike (S26)."""
    counter_example(
        "S26: when gamma is too low the factor is not large enough, so it is at most that of gamma = 2",
        at="p_t = .3, gamma = 1/64, factor",
        says=factor_in_losslab(0.3, 2),
        truth=factor_in_losslab(0.3, 1 / 64),
    )
