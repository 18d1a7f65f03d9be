"""Question 6, first part: when is dL_focal/dy = dL_ce/dy? The report gives no answer (S24). p is p_t throughout."""

import mpmath
import pytest
import torch
from course_report.proof import GAMMAS, POINTS, agree, gradient, prove, random_logits
from mpmath import mp
from sympy import Rational, diff, exp, lambdify, limit, log, solve, symbols

from losslab.losses import CrossEntropyLoss, FocalLoss, focal_crossover, focal_gradient_ratio, matching_gamma

p, q, g = symbols("p q gamma", positive=True)
x = symbols("x", real=True)
FOCAL = -((1 - p) ** g) * log(p)
c = -p * log(p) / (1 - p)
RATIO = (1 - p) ** g + g * (-p * log(p)) * (1 - p) ** (g - 1)
PSI = 1 - g * p - 2 * (1 - p) / -log(p)  # has the sign of d log r / dp

MEETING = {0.5: 0.4215, 1: 0.3679, 2: 0.2976, 3: 0.2526, 5: 0.1968, 10: 0.1307}
ratio = lambdify((p, g), RATIO, "mpmath")


def test_the_ratio_of_the_gradients():
    """r(p, g) = (1-p)^g + g eps_p (1-p)^(g-1) = (1-p)^g (1 + g c), c = eps_p / (1-p), for either label."""
    prove(diff(FOCAL, p) / diff(-log(p), p), RATIO)
    prove(RATIO, (1 - p) ** g * (1 + g * c))
    y = symbols("y", positive=True)  # for t = 0, p = 1 - y: the sign of dL/dy turns, in both losses
    prove(diff(FOCAL.subs(p, 1 - y), y) / diff(-log(1 - y), y), RATIO.subs(p, 1 - y))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_ratio_is_that_of_losslabs_gradients(gamma):
    logits, labels = random_logits(POINTS, 3), torch.arange(POINTS) % 3
    p_t = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    focal, ce = (
        gradient(loss, logits, labels) for loss in (FocalLoss(gamma, reduction="sum"), CrossEntropyLoss("sum"))
    )
    for k in range(3):
        agree(RATIO, {p: p_t, g: gamma}, focal[:, k] / ce[:, k])
    agree(RATIO, {p: p_t, g: gamma}, focal_gradient_ratio(p_t, gamma))


def test_they_agree_everywhere_only_at_gamma_0():
    """At g = 0, r = 1. At p = 1/2, r = (1 + x) e^-x with x = g log 2, which falls from 1: so r < 1 there if g > 0."""
    prove(RATIO.subs(g, 0), 1)
    at_half = RATIO.subs(p, Rational(1, 2))
    prove(at_half, ((1 + x) * exp(-x)).subs(x, g * log(2)))
    prove(diff((1 + x) * exp(-x), x), -x * exp(-x))
    assert diff((1 + q) * exp(-q), q).simplify().is_negative


def test_for_each_gamma_above_0_they_agree_at_exactly_one_p():
    """r -> 1 as p -> 0 and r -> 0 as p -> 1; in between log r rises, then falls: it is 0 once, at p*.

    Its slope has the sign of psi = 1 - g p - 2 M, M = (1-p) / -log p. psi falls from 1 to -1 - g, since M rises: the
    numerator of M', log p - 1 + 1/p, is 0 at p = 1 and its slope (p - 1) / p^2 is negative before.
    """
    assert limit((1 - p) ** g * (1 + g * c), p, 0) == 1
    assert limit(q**g * (1 + g * c.subs(p, 1 - q)), q, 0) == 0
    prove(diff(log(RATIO), p), g * -log(p) * PSI / ((1 - p) ** 2 * (1 + g * c)))
    assert limit(PSI, p, 0) == 1
    assert limit(PSI, p, 1) == -1 - g
    of_m = log(p) - 1 + 1 / p
    prove(diff(PSI, p), -g - 2 * of_m / log(p) ** 2)
    prove(of_m.subs(p, 1), 0)
    prove(diff(of_m, p), (p - 1) / p**2)


@pytest.mark.parametrize(("gamma", "meeting"), MEETING.items())
def test_below_that_p_focals_gradient_is_the_larger_above_it_the_smaller(gamma, meeting):
    """p* to four decimals, and a fine grid on both sides of it."""
    root = float(mpmath.findroot(lambda p: ratio(p, gamma) - 1, meeting))
    assert root == pytest.approx(meeting, abs=5e-5)
    assert root == pytest.approx(focal_crossover(gamma), rel=1e-12)
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)[1:-1]
    assert torch.equal(focal_gradient_ratio(grid, gamma) > 1, grid < root)


def test_for_gamma_1_that_p_is_1_over_e():
    assert solve(RATIO.subs(g, 1) - 1, p) == [exp(-1)]


@pytest.mark.parametrize(("gamma", "largest"), [(1, 1.135), (2, 1.225), (5, 1.394)])
def test_focals_gradient_is_at_most_that_much_larger(gamma, largest):
    """At the p where psi = 0."""
    psi = lambdify(p, PSI.subs(g, gamma), "mpmath")
    top = mpmath.findroot(psi, (1e-3, MEETING[gamma]), solver="anderson")
    assert float(ratio(top, gamma)) == pytest.approx(largest, abs=5e-4)


def test_a_given_p_has_such_a_gamma_if_and_only_if_it_is_below_one_half():
    """r = 1 where e^(u g) = 1 + c g, u = -log(1-p): a convex curve and a line through (0, 1). They meet once more,
    at one g > 0, if and only if the line starts steeper, c > u, that is eps_p > eps_{1-p}. That is p < 1/2: the
    difference h is 0 at 0 and 1/2, concave between them, and odd about 1/2.
    """
    u = symbols("u", positive=True)
    curve, of_u = exp(u * g) - 1 - x * g, 1 - exp(-u)  # x for c
    prove((RATIO - 1).subs(p, of_u), -exp(-u * g) * curve.subs(x, c.subs(p, of_u)))
    assert diff(curve, g, 2).is_positive
    prove(diff(curve, g).subs(g, 0), u - x)
    h = -p * log(p) + (1 - p) * log(1 - p)
    prove(h, (1 - p) * (c + log(1 - p)))
    assert limit(h, p, 0) == 0
    prove(h.subs(p, Rational(1, 2)), 0)
    prove(h.subs(p, 1 - p), -h)
    prove(diff(h, p, 2), -(1 - 2 * p) / (p * (1 - p)))


def test_that_gamma_is_given_by_lamberts_w():
    """g* = W(v)/b - 1/c, v = (b/c) e^(b/c), b = log(1-p) (Mukhoti et al. 2020, arXiv:2002.09437), from w e^w = v.

    The branch W_-1; on the other, w = b/c and g* = 0.
    """
    w, b, slope = symbols("w b c", nonzero=True)
    gamma = w / b - 1 / slope
    r = exp(b * gamma) * (1 + gamma * slope)  # (1-p)^g (1 + g c)
    prove(r, w * exp(w) / (b / slope * exp(b / slope)))  # = w e^w / v = 1
    with mp.workdps(50):
        for k in range(1, 100):
            p_t = mp.mpf(k) / 200
            b_, c_ = mp.log(1 - p_t), -p_t * mp.log(p_t) / (1 - p_t)
            gamma = mp.lambertw(b_ / c_ * mp.exp(b_ / c_), -1).real / b_ - 1 / c_
            assert gamma > 0
            assert abs(ratio(p_t, gamma) - 1) < 1e-45
            in_losslab = matching_gamma(torch.tensor(float(p_t), dtype=torch.float64))
            assert float(in_losslab) == pytest.approx(float(gamma), rel=1e-10)
