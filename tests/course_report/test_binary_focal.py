"""Question 4, the binary form of focal loss (S21); question 5, its derivative in the output y (S22, S23)."""

import pytest
import torch
from course_report.proof import GAMMAS, POINTS, agree, gradient, prove, random_logits
from sympy import Rational, diff, exp, log, symbols

from losslab.losses import BinaryFocalLoss, FocalLoss

y, g = symbols("y gamma", positive=True)
t, z, alpha = symbols("t z alpha", real=True)
FOCAL = -t * (1 - y) ** g * log(y) - (1 - t) * y**g * log(1 - y)
REPORT = -((1 - y) ** g) * log(y) - (1 - y**g) * log(1 - y)
HERE = {y: Rational(3, 10), g: 2}


def eps(p):
    """The exam's epsilon_p = -p log p."""
    return -p * log(p)


EXAM = -1 / (y * (1 - y)) * (t * (1 - y) ** g * (g * eps(y) + 1 - y) + (t - 1) * y**g * (g * eps(1 - y) + y))


def two_logits(d):
    """Softmax over logits (0, d) is the sigmoid of d: FocalLoss of two classes is the binary focal loss of d."""
    return torch.stack([torch.zeros_like(d), d], dim=1)


def test_the_generic_loss_of_each_label_is_the_binary_one():
    """-(1 - p_t)^g log p_t, with p_t = y for t = 1 and 1 - y for t = 0 (S21)."""
    p_t = symbols("p_t", positive=True)
    generic = -((1 - p_t) ** g) * log(p_t)
    prove(FOCAL.subs(t, 1), generic.subs(p_t, y))
    prove(FOCAL.subs(t, 0), generic.subs(p_t, 1 - y))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0, 1])
def test_losslabs_focal_loss_of_two_classes_is_the_binary_one(gamma, label):
    """Value, and dL/dy = dL/dd / (y (1 - y)) by autograd against the exam's derivative (S21, S22)."""
    d, labels = random_logits(POINTS), torch.full((POINTS,), label)
    p = d.sigmoid()
    at = {t: label, g: gamma, y: p}
    agree(FOCAL, at, FocalLoss(gamma, reduction="none")(two_logits(d), labels))
    agree(EXAM, at, gradient(FocalLoss(gamma, reduction="sum"), two_logits(d), labels)[:, 1] / (p * (1 - p)))


@pytest.mark.parametrize(("label", "gamma"), [(1, 2), (0, 2), (0, 0)])
def test_the_reports_loss_is_another_one(label, gamma, counter_example):
    """It has no targets, and 1 - y^g where y^g belongs; at g = 0 it is -log y for every label (S21)."""
    prove(REPORT.subs(g, 0), -log(y))
    logits = torch.tensor([[0.0, float(log(Rational(3, 7)))]], dtype=torch.float64)
    counter_example(
        "S21: L = -(1 - y)^g log y - (1 - y^g) log(1 - y)",
        at=f"y = .3, t = {label}, g = {gamma}",
        says=REPORT.subs({**HERE, g: gamma}),
        truth=FocalLoss(gamma)(logits, torch.tensor([label])),
    )


def test_the_exams_derivative_is_the_derivative_of_the_binary_focal_loss():
    """dL/dy = -1/(y(1-y)) [t (1-y)^g (g eps_y + 1 - y) + (t-1) y^g (g eps_{1-y} + y)] (S22)."""
    prove(diff(FOCAL, y), EXAM)


def test_the_reports_two_lines_are_the_exams_derivative_written_otherwise(counter_example):
    """1/(y(y-1)) = -1/(y(1-y)), and eps written out. They are not the derivative of the report's own loss (S23)."""
    bracket = t * (1 - y) ** g * (g * -y * log(y) - y + 1)
    bracket += (t - 1) * y**g * (g * y * log(1 - y) - g * log(1 - y) + y)
    prove(1 / (y * (y - 1)) * bracket, EXAM)
    prove(-1 / (y * (1 - y)) * bracket, EXAM)
    for label, difference in ((1, 1.09), (0, -2.58)):
        of_exam, of_report = EXAM.subs({**HERE, t: label}), diff(REPORT, y).subs(HERE)
        assert float(of_report - of_exam) == pytest.approx(difference, abs=5e-3)
        counter_example(
            "S23: the two lines follow from the report's loss, whose derivative they are",
            at=f"y = .3, t = {label}, g = 2, dL/dy",
            says=of_exam,
            truth=of_report,
        )


def sigma(x):
    return 1 / (1 + exp(-x))


def ls(x):
    """The logarithm of the sigmoid."""
    return log(sigma(x))


WEIGHTED = -alpha * t * exp(g * ls(-z)) * ls(z) - (1 - alpha) * (1 - t) * exp(g * ls(z)) * ls(-z)


def test_with_alpha_the_derivative_in_the_logit_has_a_form_without_division():
    """dL/dz = -a t e^{g ls(-z)} (s(-z) - g s(z) ls(z)) + (1-a)(1-t) e^{g ls(z)} (s(z) - g s(-z) ls(-z))."""
    prove(1 - sigma(z), sigma(-z))
    positive = alpha * t * exp(g * ls(-z)) * (sigma(-z) - g * sigma(z) * ls(z))
    negative = (1 - alpha) * (1 - t) * exp(g * ls(z)) * (sigma(z) - g * sigma(-z) * ls(-z))
    prove(diff(WEIGHTED, z), negative - positive)


@pytest.mark.parametrize("weight", [None, 0.25, 0.75])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_losslabs_binary_focal_loss_is_it_for_each_column(gamma, weight):
    """Column k of the gradient is the derived dL/dz at z_k, t = 1 for the label's column; no alpha is twice a = 1/2."""
    logits, labels = random_logits(POINTS, 3), torch.arange(POINTS) % 3
    loss, scale = BinaryFocalLoss(gamma, weight, reduction="none"), 2 if weight is None else 1
    actual = gradient(loss, logits, labels)
    for k in range(3):
        at = {z: logits[:, k], t: (labels == k).double(), g: gamma, alpha: 0.5 if weight is None else weight}
        agree(scale * diff(WEIGHTED, z), at, actual[:, k])


@pytest.mark.parametrize("gamma", GAMMAS)
def test_two_opposite_logits_cost_twice_the_binary_loss(gamma):
    """Logits (-d, d) and label 1: both columns ask the same question (S21)."""
    d = random_logits(POINTS)
    loss = BinaryFocalLoss(gamma, reduction="none")(torch.stack([-d, d], dim=1), torch.ones(POINTS, dtype=torch.int64))
    agree(2 * FOCAL, {t: 1, g: gamma, y: d.sigmoid()}, loss)
