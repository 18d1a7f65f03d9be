"""Question 2: the derivative of cross-entropy in the logits z; what cross-entropy is (S16) and its minimum (S27)."""

import math

import pytest
import torch
import torch.nn.functional as F
from course_report.proof import POINTS, agree, gradient, prove, random_logits, random_probabilities, softmax
from sympy import Matrix, Rational, Symbol, diff, limit, log, oo, symbols

from losslab.losses import CrossEntropyLoss

for_2_to_4_classes = pytest.mark.parametrize("classes", [2, 3, 4])


def cross_entropy(t, y):
    """-sum_k t_k log y_k."""
    return -sum(t_k * log(y_k) for t_k, y_k in zip(t, y, strict=True))


def report(t_i, y_i):
    """The report's dL/dz_i, -y_i + y_i P(y=i|x): its y is the target t, its P the output y."""
    return -t_i + t_i * y_i


@for_2_to_4_classes
def test_the_gradient_is_y_i_times_the_sum_of_t_minus_t_i(classes):
    """dL/dz_i = y_i sum_k t_k - t_i, which is y_i - t_i for targets that sum to 1 (S18)."""
    z, t = symbols(f"z1:{classes + 1}"), symbols(f"t1:{classes + 1}")
    y = softmax(z)
    for i in range(classes):
        derivative = diff(cross_entropy(t, y), z[i])
        prove(derivative, y[i] * sum(t) - t[i])
        prove(derivative.subs(t[-1], 1 - sum(t[:-1])), (y[i] - t[i]).subs(t[-1], 1 - sum(t[:-1])))


@for_2_to_4_classes
@pytest.mark.parametrize("hard", [True, False], ids=["labels", "soft targets"])
def test_the_gradient_is_that_of_losslab(classes, hard):
    """The derived dL/dz_i against autograd of CrossEntropyLoss at random logits and targets (S18)."""
    z, t = symbols(f"z1:{classes + 1}"), symbols(f"t1:{classes + 1}")
    logits, labels = random_logits(POINTS, classes), torch.arange(POINTS) % classes
    target = F.one_hot(labels, classes).double() if hard else random_probabilities(POINTS, classes)
    actual = gradient(CrossEntropyLoss("sum"), logits, labels if hard else target)
    at = dict(zip(z + t, [*logits.T, *target.T], strict=True))
    for i in range(classes):
        agree(diff(cross_entropy(t, softmax(z)), z[i]), at, actual[:, i])


def test_the_condition_i_equals_j_keeps_one_term_of_the_sum():
    """The term k = i alone, -t_i dlog y_i/dz_i, is the report's formula; the others add y_i sum_{k != i} t_k (S19)."""
    z, t = symbols("z1:4"), symbols("t1:4")
    y = softmax(z)
    for i in range(3):
        prove(-t[i] * diff(log(y[i]), z[i]), report(t[i], y[i]))
        prove(diff(cross_entropy(t, y), z[i]), report(t[i], y[i]) + y[i] * (sum(t) - t[i]))


def test_the_reports_gradient_leaves_wrong_classes_alone(counter_example):
    """Report minus truth is 0 for the label and -y_i for every other class of a one-hot target (S18)."""
    t_i, y_i = symbols("t_i y_i")
    error = report(t_i, y_i) - (y_i - t_i)
    prove(error.subs(t_i, 1), 0)
    prove(error.subs(t_i, 0), -y_i)
    y = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for target, name in (([1.0, 0.0, 0.0], "label 1"), ([0.7, 0.2, 0.1], "t = (.7, .2, .1)")):
        actual = gradient(CrossEntropyLoss("sum"), y.log()[None], torch.tensor([target], dtype=torch.float64))
        counter_example(
            "S18: dL/dz_i = -t_i + t_i p_i",
            at=f"p = (.2, .5, .3), {name}, i = 2",
            says=report(target[1], float(y[1])),
            truth=actual[0, 1],
        )


def test_read_with_y_as_the_output_the_reports_gradient_ignores_the_target(counter_example):
    """With one meaning of y throughout, -y_i + y_i y_i = -y_i (1 - y_i): no target in it (S18, S16)."""
    y = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    counter_example(
        "S18: dL/dz_i = -y_i + y_i y_i, y being the output in both places",
        at="y = (.2, .5, .3), label 1, i = 1",
        says=-0.2 + 0.2 * 0.2,
        truth=gradient(CrossEntropyLoss("sum"), y.log(), torch.tensor([0]))[0, 0],
    )


def test_the_binary_form_is_the_multi_class_form_of_two_classes(counter_example):
    """-(t log p + (1 - t) log(1 - p)) = -sum_k t_k log y_k for t = (t, 1 - t), y = (p, 1 - p), only (S16)."""
    t, p = symbols("t p")
    binary = -(t * log(p) + (1 - t) * log(1 - p))
    prove(cross_entropy([t, 1 - t], [p, 1 - p]), binary)
    y = (Rational(1, 5), Rational(1, 2), Rational(3, 10))
    logits = torch.tensor([[float(log(y_k)) for y_k in y]], dtype=torch.float64)
    counter_example(
        "S16: beside a softmax of three classes the loss is the binary form, for each class",
        at="y = (.2, .5, .3), label 1",
        says=sum(binary.subs({t: t_k, p: y_k}) for t_k, y_k in zip((1, 0, 0), y, strict=True)),
        truth=CrossEntropyLoss()(logits, torch.tensor([0])),
    )


def test_the_minimum_for_soft_labels_is_their_entropy_at_y_equal_to_them():
    """L(p) on sum p = 1 is convex and stationary at p = eta, where it is H(eta) = -sum eta log eta (S27)."""
    eta, p = symbols("eta1:4", positive=True), symbols("p1:4", positive=True)
    gradient_of_p = [diff(cross_entropy(eta, p), p_k) for p_k in p]
    assert len({part.subs(dict(zip(p, eta, strict=True))) for part in gradient_of_p}) == 1  # the multiplier's
    hessian = Matrix(gradient_of_p).jacobian(p)
    assert hessian.is_diagonal()
    assert all(hessian[k, k].is_positive for k in range(3))
    targets = random_probabilities(POINTS, 3)
    entropy = -(targets * targets.log()).sum(dim=1)
    torch.testing.assert_close(CrossEntropyLoss("none")(targets.log(), targets), entropy, rtol=1e-10, atol=1e-10)
    assert gradient(CrossEntropyLoss("sum"), targets.log(), targets).abs().max() < 1e-10
    assert (CrossEntropyLoss("none")(random_logits(POINTS, 3), targets) > entropy).all()


def test_a_perfect_model_has_a_loss_above_0_when_labels_are_noisy(counter_example):
    """The model that knows the probabilities, y = eta, has H(eta) > 0; hard labels have infimum 0, unattained (S27)."""
    eta = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    counter_example(
        "S27: a perfect model has a cross-entropy of 0",
        at="one image in ten has the other label, eta = (.9, .1) = y",
        says=0,
        truth=CrossEntropyLoss()(eta.log(), eta),
    )
    d = Symbol("d", real=True)  # the label's logit minus the other's
    per_image = -log(softmax([d, 0])[0])
    assert limit(per_image, d, oo) == 0
    assert (-diff(per_image, d)).simplify().is_positive  # it falls for ever
    assert CrossEntropyLoss()(torch.tensor([[30.0, 0.0]]).double(), torch.tensor([0])) > 0


def test_a_lower_cross_entropy_is_not_a_higher_accuracy(counter_example):
    """Three images of class 0: p_t = .49, .49, .99 costs less than .51, .51, .01 and gets fewer right (S27)."""
    cautious, bold = (
        torch.tensor([[p_t, 1 - p_t] for p_t in row], dtype=torch.float64)
        for row in ((0.49, 0.49, 0.99), (0.51, 0.51, 0.01))
    )
    labels = torch.zeros(3, dtype=torch.int64)
    assert CrossEntropyLoss()(cautious.log(), labels) < CrossEntropyLoss()(bold.log(), labels)
    accuracy = {name: float((p[:, 0] > 0.5).double().mean()) for name, p in (("cautious", cautious), ("bold", bold))}
    counter_example(
        "S27: cross-entropy tells how effective a model is, so that the lower one has at least the other's accuracy",
        at="p_t = .49, .49, .99 (cross-entropy .479) against .51, .51, .01 (1.984), accuracy of the first",
        says=accuracy["bold"],
        truth=accuracy["cautious"],
    )
    assert math.isclose(CrossEntropyLoss()(cautious.log(), labels), 0.479, abs_tol=5e-4)
    assert math.isclose(CrossEntropyLoss()(bold.log(), labels), 1.984, abs_tol=5e-4)
