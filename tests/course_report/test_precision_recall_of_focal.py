"""Question 8, which the report leaves open, for focal loss (S29): where its minimum is, from question 5's derivative.

eta is the true probability of each class, p what the loss makes of it, r the ratio of focal's gradient to CE's (S24).
"""

import pytest
import torch
from course_report.proof import POINTS, prove, random_logits, random_probabilities
from sympy import diff, exp, lambdify, limit, log, sinh, symbols

from losslab.losses import CrossEntropyLoss, FocalLoss, focal_to_probability

p, g, z = symbols("p gamma Z", positive=True)
FOCAL = -((1 - p) ** g) * log(p)
c = -p * log(p) / (1 - p)
RATIO = (1 - p) ** g * (1 + g * c)


def fitted(gamma, eta):
    """The probabilities that minimise FocalLoss for soft targets eta, one row of logits for each."""
    logits = torch.zeros_like(eta).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], lr=1, max_iter=2000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step():
        optimizer.zero_grad()
        loss = FocalLoss(gamma, reduction="sum")(logits, eta)
        loss.backward()
        return loss

    optimizer.step(step)
    return logits.detach()


def two_classes(*eta):
    return torch.tensor([[e, 1 - e] for e in eta], dtype=torch.float64)


def eta_of(p_k, gamma):
    """The eta whose minimiser is p_k, of two classes: p / r(p), normalised."""
    ratio = lambdify(p, RATIO.subs(g, gamma))
    of_class, of_other = p_k / ratio(p_k), (1 - p_k) / ratio(1 - p_k)
    return of_class / (of_class + of_other)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_minimum_is_where_eta_is_proportional_to_p_over_r(classes):
    """Lagrange on sum p = 1: eta_k dFL/dp_k is the same for all k. With eta_k = p_k / (r_k Z) it is -1/Z."""
    slopes = []
    for p_k in symbols(f"p1:{classes + 1}", positive=True):
        eta_k = (p / RATIO).subs(p, p_k) / z
        slopes.append(eta_k * diff(FOCAL, p).subs(p, p_k))
        prove(slopes[-1], -1 / z)
    prove(slopes[0], slopes[-1])


def test_p_over_r_rises_so_the_minimum_is_the_only_one_and_keeps_the_classes_in_order():
    """d(p/r)/dp has the sign of (1-p) + g p (2 - c) + g^2 c p > 0, since 0 < c < 1: c rises, to 1 at p = 1.

    dFL/dp = -r/p then rises too, so the expected loss is convex in p; and eta_j < eta_k means p_j < p_k.
    """
    prove(diff(p / RATIO, p), ((1 - p) + g * p * (2 - c) + g**2 * c * p) / ((1 - p) ** (g + 1) * (1 + g * c) ** 2))
    prove(diff(FOCAL, p), -RATIO / p)
    assert limit(c, p, 1) == 1
    of_slope = -log(p) - 1 + p  # 0 at p = 1, and falling before: so positive
    prove(diff(c, p), of_slope / (1 - p) ** 2)
    prove(of_slope.subs(p, 1), 0)
    prove(diff(of_slope, p), -(1 - p) / p)


@pytest.mark.parametrize(("gamma", "at_9_tenths"), [(1, 0.774), (2, 0.694), (5, 0.597)])
def test_losslabs_minimum_is_that_one(gamma, at_9_tenths, counter_example):
    """FocalLoss minimised for soft targets: eta = .9 gives p = .774, .694, .597 for g = 1, 2, 5."""
    minimum = float(fitted(gamma, two_classes(0.9)).softmax(dim=1)[0, 0])
    assert minimum == pytest.approx(at_9_tenths, abs=5e-4)
    assert eta_of(minimum, gamma) == pytest.approx(0.9, abs=1e-6)
    eta = random_probabilities(20, 3)
    torch.testing.assert_close(focal_to_probability(fitted(gamma, eta), gamma), eta, rtol=0, atol=1e-5)
    if gamma == 5:
        counter_example(
            "S25: a high gamma makes fewer positive predictions, so that even eta = .9 ends at 1/2 or below",
            at="eta = .9, gamma = 5, p",
            says=0.5,
            truth=minimum,
        )


@pytest.mark.parametrize(("gamma", "needed"), [(0, 0.9), (1, 0.981), (2, 0.9974)])
def test_precision_and_recall_at_argmax_stay_while_coverage_of_a_high_threshold_falls(gamma, needed):
    """p >= .9 needs eta >= .981 at g = 1, .9974 at g = 2: fewer, surer images pass the threshold."""
    assert eta_of(0.9, gamma) == pytest.approx(needed, abs=10.0 ** -len(str(needed)[2:]) / 2)
    eta = two_classes(0.02, 0.2, 0.45, 0.55, 0.7, 0.85, 0.95, 0.975, 0.99, 0.999)
    minimum = fitted(gamma, eta).softmax(dim=1)
    assert torch.equal(minimum.argmax(dim=1), eta.argmax(dim=1))
    assert torch.equal(minimum[:, 0] >= 0.9, eta[:, 0] >= needed)
    passing = eta[minimum[:, 0] >= 0.9, 0]
    print(f"\ngamma = {gamma}, p >= .9: precision {passing.mean():.3f}, recall {passing.sum() / eta[:, 0].sum():.3f}")


@pytest.mark.parametrize("gamma", [0.5, 1, 2, 5])
def test_focal_is_at_least_cross_entropy_minus_gamma_times_the_entropy_of_p(gamma):
    """FL >= CE - g H(p) (Mukhoti et al. 2020, arXiv:2002.09437), for every g >= 0, class count and target.

    With a = -log p, b = -log(1-p): CE - FL = a (1 - e^(-g b)) <= g a b, and a b <= p a + (1-p) b, at most H(p). For
    that, divide by a b: (1-p)/a, and p/b likewise, is sinh(s)/s sqrt(p) for p = e^(-2s), so their sum is at least
    sqrt(p) + sqrt(1-p) >= 1.
    """
    s = symbols("s", positive=True)
    prove(((1 - p) / -log(p)).subs(p, exp(-2 * s)), (sinh(s) / s * exp(-s)).rewrite(exp))
    logits, labels = random_logits(POINTS, 3), torch.arange(POINTS) % 3
    probabilities = logits.softmax(dim=1)
    entropy = -(probabilities * probabilities.log()).sum(dim=1)
    for target in (labels, random_probabilities(POINTS, 3)):
        focal, ce = FocalLoss(gamma, reduction="none")(logits, target), CrossEntropyLoss("none")(logits, target)
        assert (focal >= ce - gamma * entropy).all()
