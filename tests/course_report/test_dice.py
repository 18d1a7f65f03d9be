"""Question 3: show that dL_dice/dz = (y - 1) / (2y) (1 - L_dice)^2. The report gives no proof; here it is (S20)."""

import math

import pytest
import torch
from course_report.proof import POINTS, agree, gradient, prove, random_logits, random_probabilities, softmax
from sympy import Rational, diff, limit, symbols

from losslab.losses import CrossEntropyLoss, DiceLoss, GeneralizedCrossEntropyLoss, TverskyLoss

y, t, y_2, t_2, epsilon = symbols("y t y_2 t_2 epsilon", positive=True)
DICE = 1 - 2 * y * t / (y + t)
SQUARED = 1 - 2 * y * t / (y**2 + t**2)
SMOOTHED = 1 - (2 * y * t + epsilon) / (y + t + epsilon)
JACCARD = 1 - y * t / (y + t - y * t)
OF_TWO = 1 - 2 * (y * t + y_2 * t_2) / (y + y_2 + t + t_2)
SIGMOIDS = y * (1 - y)  # dy/dz
AT = {y: Rational(3, 5), t: 1, y_2: Rational(4, 5), t_2: 0, epsilon: 1}


def left(loss, dy_dz=SIGMOIDS):
    """dL/dz = dL/dy dy/dz."""
    return diff(loss, y) * dy_dz


def right(loss):
    """What the exam says it is."""
    return (y - 1) / (2 * y) * (1 - loss) ** 2


def one_element(loss):
    """Of a loss with a value for each class: that of class 0 of one image, at logits (z, 0) and target (t, 1 - t)."""
    return lambda z, target: loss(z, target)[0]


def each_gradient(loss, logits, target):
    """dL/dz of one image at a time: (N,)."""
    return torch.stack(
        [gradient(one_element(loss), z[None], t[None])[0, 0] for z, t in zip(logits, target, strict=True)]
    )


def test_the_exams_identity_holds_for_every_target():
    """For L = 1 - 2yt / (y + t) and dy/dz = y (1 - y), for every t > 0; at t = 0 both sides are 0 (S20)."""
    prove(left(DICE), right(DICE))
    prove(left(DICE).subs(t, 0), 0)
    prove(right(DICE).subs(t, 0), 0)


@pytest.mark.parametrize(
    ("formula", "loss"),
    [
        (DICE, DiceLoss(False, reduction="none")),
        (SQUARED, DiceLoss(True, reduction="none")),
        (JACCARD, TverskyLoss(1, 1, reduction="none")),
    ],
    ids=["dice", "squared", "Jaccard"],
)
def test_the_derivatives_are_those_of_losslab(formula, loss):
    """dL/dz of one element against autograd, for hard and for soft targets (S20)."""
    logits = torch.stack([random_logits(POINTS), torch.zeros(POINTS, dtype=torch.float64)], dim=1)
    for target in (random_probabilities(POINTS, 2), torch.tensor([[1.0, 0.0]]).double().expand(POINTS, 2)):
        at = {y: logits[:, 0].sigmoid(), t: target[:, 0]}
        agree(left(formula), at, each_gradient(loss, logits, target))
        if formula is DICE:
            agree(right(formula), at, each_gradient(loss, logits, target))


def test_for_the_label_it_is_at_most_a_quarter_and_vanishes_for_confident_mistakes():
    """At t = 1: -2y (1 - y) / (1 + y)^2; at most 1/4, at y = 1/3; as y -> 0 its size tends to 0, CE's to 1."""
    per_image = left(DICE).subs(t, 1)
    prove(per_image, -2 * y * (1 - y) / (1 + y) ** 2)
    prove(Rational(1, 4) + per_image, (1 - 3 * y) ** 2 / (2 * (1 + y)) ** 2)  # a square: >= 0, and 0 at 1/3 only
    assert limit(per_image, y, 0) == 0
    lost = torch.tensor([[-20.0, 0.0]], dtype=torch.float64)
    assert abs(each_gradient(DiceLoss(reduction="none"), lost, torch.tensor([[1.0, 0.0]]).double())) < 1e-8
    assert gradient(CrossEntropyLoss(), lost, torch.tensor([0]))[0, 0] < -1 + 1e-8


@pytest.mark.parametrize(
    ("name", "loss", "dy_dz", "ratio"),
    [
        ("with squares in the denominator", SQUARED, SIGMOIDS, 1 - y**2),
        ("with a smoothing epsilon = 1", SMOOTHED, SIGMOIDS, 2 * y**2 * (epsilon + 2) / (epsilon + 2 * y) ** 2),
        ("for the derivative in the output, dy/dz = 1", DICE, 1, 1 / (y * (1 - y))),
        ("for the soft Jaccard index", JACCARD, SIGMOIDS, 2),
        ("for a batch of two, y = (.6, .8), t = (1, 0)", OF_TWO, SIGMOIDS, 1 + y_2),
    ],
)
def test_for_any_other_dice_the_identity_is_false(name, loss, dy_dz, ratio, counter_example):
    """The ratio of the two sides at t = 1 is not 1 (S20). For Jaccard it is 2 at every t."""
    prove((left(loss, dy_dz) / right(loss)).subs({t: 1, t_2: 0}), ratio)
    if loss is JACCARD:
        prove(left(loss) / right(loss), 2)
    counter_example(
        f"S20: the identity {name}",
        at="y = .6, t = 1, dL/dz",
        says=right(loss).subs(AT),
        truth=left(loss, dy_dz).subs(AT),
    )


def test_in_a_batch_of_two_losslabs_gradient_is_that_of_the_batch():
    """The identity's counter-example of a batch, by autograd (S20)."""
    logits = torch.tensor([[math.log(1.5), 0.0], [math.log(4), 0.0]], dtype=torch.float64)  # y = .6 and .8
    actual = gradient(one_element(DiceLoss(reduction="none")), logits, torch.tensor([0, 1]))[0, 0]
    assert float(actual) == pytest.approx(float(left(OF_TWO).subs(AT)), abs=1e-10)


@pytest.mark.parametrize("power", [1, 2])
def test_the_gradient_over_a_batch(power):
    """Of two images and classes, L = mean_c (1 - D_c), D_c = 2 sum_i p y / S_c, S_c = sum_i (p^r + y^r).

    G = dL/dp = -(2y - D) / (2 S) for r = 1, -2 (y - D p) / (2 S) for r = 2; dL/dz_k = p_k (G_k - sum_c G_c p_c).
    """
    p, target = symbols("p_:2:2", positive=True), symbols("y_:2:2", positive=True)  # image i, class c at 2 i + c
    size = [sum(p[i] ** power + target[i] ** power for i in (c, 2 + c)) for c in (0, 1)]
    dice = [2 * sum(p[i] * target[i] for i in (c, 2 + c)) / size[c] for c in (0, 1)]
    of_p = [diff(sum(1 - d for d in dice) / 2, p_ic) for p_ic in p]
    for i, p_ic in enumerate(p):
        pull = 2 * target[i] - dice[i % 2] if power == 1 else 2 * (target[i] - dice[i % 2] * p_ic)
        prove(of_p[i], -pull / (2 * size[i % 2]))
    logits, targets = random_logits(POINTS, 2, 2), random_probabilities(POINTS, 2, 2)
    at = dict(zip(p + target, [*logits.softmax(dim=2).flatten(1).T, *targets.flatten(1).T], strict=True))
    actual = torch.func.vmap(torch.func.grad(DiceLoss(power == 2)))(logits, targets).flatten(1)
    for k in range(4):
        own = k - k % 2
        agree(p[k] * (of_p[k] - sum(of_p[c] * p[c] for c in (own, own + 1))), at, actual[:, k])


def test_a_gradient_in_p_becomes_one_in_z_by_the_softmax_jacobian():
    """sum_c G_c dp_c/dz_k = p_k (G_k - sum_c G_c p_c): the last step of the test above."""
    z, g = symbols("z1:4"), symbols("G1:4")
    p = softmax(z)
    mean = sum(g_c * p_c for g_c, p_c in zip(g, p, strict=True))
    for k in range(3):
        prove(diff(mean, z[k]), p[k] * (g[k] - mean))


def test_micro_dice_is_the_mean_absolute_error_not_a_dice():
    """With sums over classes too, 1 - 2I / S = 1 - mean_i sum_c p_ic y_ic, for labels 1 - mean p_t: GCE at q = 1."""
    free_p, free_y = symbols("p:4"), symbols("y:4")
    p, target = ([*free[:2], 1 - sum(free[:2]), *free[2:], 1 - sum(free[2:])] for free in (free_p, free_y))
    overlap = sum(p_ic * y_ic for p_ic, y_ic in zip(p, target, strict=True))
    micro = 1 - 2 * overlap / (sum(p) + sum(target))
    prove(micro, 1 - overlap / 2)  # of two images and three classes
    logits, targets = random_logits(POINTS, 2, 3), random_probabilities(POINTS, 2, 3)
    at = dict(
        zip(free_p + free_y, [*logits.softmax(2)[..., :2].flatten(1).T, *targets[..., :2].flatten(1).T], strict=True)
    )
    agree(micro, at, torch.func.vmap(GeneralizedCrossEntropyLoss(q=1))(logits, targets))
