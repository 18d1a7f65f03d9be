"""Question 1: the derivative of the softmax output y in the logits z."""

import pytest
import torch
from course_report.proof import POINTS, agree, prove, random_logits, softmax
from sympy import Rational, diff, exp, log, symbols

for_2_to_4_classes = pytest.mark.parametrize("classes", [2, 3, 4])


@for_2_to_4_classes
def test_the_jacobian_is_y_i_times_delta_ij_minus_y_j(classes):
    """dy_i/dz_j = y_i (delta_ij - y_j) (S17)."""
    z = symbols(f"z1:{classes + 1}")
    y = softmax(z)
    for i in range(classes):
        for j in range(classes):
            prove(diff(y[i], z[j]), y[i] * ((1 if i == j else 0) - y[j]))


@for_2_to_4_classes
def test_the_jacobian_is_that_of_torch(classes):
    """Each derived dy_i/dz_j against autograd of torch.softmax at random logits (S17)."""
    z = symbols(f"z1:{classes + 1}")
    logits = random_logits(POINTS, classes)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: torch.softmax(row, dim=0)))(logits)
    for i, y_i in enumerate(softmax(z)):
        for j in range(classes):
            agree(diff(y_i, z[j]), dict(zip(z, logits.T, strict=True)), jacobian[:, i, j])


def test_the_reports_derivative_is_the_diagonal_only(counter_example):
    """y_i (1 - y_i) is dy_i/dz_i; for j != i the derivative is -y_i y_j, not 0 (S17)."""
    z = symbols("z1:4")
    y = softmax(z)
    for i in range(3):
        prove(diff(y[i], z[i]), y[i] * (1 - y[i]))
    y_is_2_5_3 = {z_i: log(Rational(y_i, 10)) for z_i, y_i in zip(z, (2, 5, 3), strict=True)}
    counter_example(
        "S17: y_i (1 - y_i) is the derivative of y in z, so that another class's logit does not move y_i",
        at="y = (.2, .5, .3), dy_2/dz_3",
        says=0,
        truth=diff(y[1], z[2]).subs(y_is_2_5_3),
    )


def test_a_constant_added_to_all_logits_moves_nothing(counter_example):
    """sum_j dy_i/dz_j = 0: what the derivative with its off-diagonal terms says, and the diagonal alone does not."""
    z = symbols("z1:4")
    y = softmax(z)
    for i in range(3):
        prove(sum(diff(y[i], z_j) for z_j in z), 0)
    counter_example(
        "S17: the same, for all logits raised together at unit speed",
        at="z = (0, 0, 0), speed of y_1",
        says=(y[0] * (1 - y[0])).subs(dict.fromkeys(z, 0)),
        truth=sum(diff(y[0], z_j) for z_j in z).subs(dict.fromkeys(z, 0)),
    )


def test_an_output_depends_on_all_logits_and_needs_an_index(counter_example):
    """ "y = sigma(z_i)" reads as a function of z_i alone; it is y_i, a function of all of z (S15)."""
    one_logit, other_logits = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 3.0, 0.0])
    counter_example(
        "S15: y = sigma(z_i), a number that z_i determines",
        at="z_1 = 1, so y_1 is the same for z = (1, 0, 0) and z = (1, 3, 0)",
        says=one_logit.softmax(dim=0)[0],
        truth=other_logits.softmax(dim=0)[0],
    )


def test_of_two_classes_it_is_the_sigmoid_of_the_logits_difference():
    """y_1 = 1 / (1 + e^-(z_1 - z_2)): so dy/dz = y (1 - y) is all there is, for one logit (S17)."""
    z = symbols("z1:3")
    d = symbols("d")
    sigmoid = 1 / (1 + exp(-d))
    prove(softmax(z)[0], sigmoid.subs(d, z[0] - z[1]))
    prove(diff(sigmoid, d), sigmoid * (1 - sigmoid))
