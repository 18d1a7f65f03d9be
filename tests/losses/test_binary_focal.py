"""One sigmoid a logit, each a binary focal loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_examples import GAMMAS
from torch import Tensor

from losslab.losses import BinaryFocalLoss, FocalLoss

LOGITS = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(40) % 6
IS_LABEL = F.one_hot(LABELS, 6).bool()

every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


def gradient(loss: torch.nn.Module, logits: Tensor = LOGITS, target: Tensor = LABELS) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, target).sum(), logits)[0]


def test_gamma_0_is_the_sum_of_torchs_binary_cross_entropies() -> None:
    torchs = F.binary_cross_entropy_with_logits(LOGITS, IS_LABEL.double(), reduction="none").sum(1)
    torch.testing.assert_close(BinaryFocalLoss(0.0, reduction="none")(LOGITS, LABELS), torchs, rtol=1e-12, atol=0)


@every_gamma
@pytest.mark.parametrize("alpha", [None, 0.25, 0.0, 1.0])
def test_value_and_gradient_are_the_closed_form(gamma: float, alpha: float | None) -> None:
    """f(x) = -s(-x)^g log s(x), f' = -s(-x)^g (s(-x) - g s(x) log s(x)), x = z for the label and -z for the others."""
    loss = BinaryFocalLoss(gamma, alpha, reduction="none")
    gamma = loss.gamma.item()
    weight = torch.where(IS_LABEL, *((1.0, 1.0) if alpha is None else (alpha, 1 - alpha))).double()
    sign = torch.where(IS_LABEL, 1.0, -1.0).double()
    s, other = (sign * LOGITS).sigmoid(), (-sign * LOGITS).sigmoid()
    torch.testing.assert_close(loss(LOGITS, LABELS), (weight * other**gamma * -s.log()).sum(1), rtol=1e-11, atol=0)
    expected = -weight * sign * other**gamma * (other - gamma * s * s.log())
    torch.testing.assert_close(gradient(loss), expected, rtol=0, atol=1e-12)


@every_gamma
def test_a_binary_question_asked_twice_with_half_the_weight_is_the_softmax_loss(gamma: float) -> None:
    """Logits -d and d with alpha = 1/2 are FocalLoss's 0 and d."""
    d = torch.linspace(-40, 40, 81).double()
    for label in (0, 1):
        labels = torch.full((81,), label)
        binary = BinaryFocalLoss(gamma, alpha=0.5, reduction="none")(torch.stack([-d, d], 1), labels)
        softmax = FocalLoss(gamma, reduction="none")(torch.stack([torch.zeros(81).double(), d], 1), labels)
        torch.testing.assert_close(binary, softmax, rtol=1e-12, atol=0)


def test_alpha_moves_weight_from_negatives_to_positives() -> None:
    positives_only, negatives_only = (BinaryFocalLoss(2.0, alpha) for alpha in (1.0, 0.0))
    assert (gradient(positives_only)[~IS_LABEL] == 0).all()
    assert (gradient(negatives_only)[IS_LABEL] == 0).all()
    for alpha in (0.25, 0.75):
        torch.testing.assert_close(
            gradient(BinaryFocalLoss(2.0, alpha)),
            alpha * gradient(positives_only) + (1 - alpha) * gradient(negatives_only),
            rtol=1e-12,
            atol=1e-15,
        )


def test_no_class_is_tied_to_another() -> None:
    """The gradient of a logit does not depend on the other logits: there is no softmax."""
    moved = LOGITS.clone()
    moved[:, 1:] += 2.5
    loss = BinaryFocalLoss(2.0, reduction="sum")
    torch.testing.assert_close(gradient(loss, moved)[:, 0], gradient(loss)[:, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_a_gamma_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma must be >= 0 and finite, got {gamma}"):
        BinaryFocalLoss(gamma)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"alpha must be in \[0, 1\] or None, got {alpha}"):
        BinaryFocalLoss(alpha=alpha)


def test_it_shows_its_arguments() -> None:
    assert repr(BinaryFocalLoss(1.5, 0.25)) == "BinaryFocalLoss(gamma=1.5, positive:negative=0.25:0.75)"


# Inputs at which other libraries' binary focal losses fail.


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("logit", [17.0, -18.0, 37.0])
def test_b10_a_confident_logit_has_finite_derivatives(gamma: float, logit: float) -> None:
    """Keras' binary focal of gamma 0.5 is NaN at 17."""
    for label in (0, 1):
        logits = torch.tensor([[logit, -logit]], requires_grad=True)
        loss = BinaryFocalLoss(gamma)(logits, torch.tensor([label]))
        (first,) = torch.autograd.grad(loss, logits, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), logits)
        assert loss.isfinite()
        assert first.isfinite().all()
        assert second.isfinite().all()


@every_gamma
def test_b11_a_positive_at_logit_minus_19_pulls_with_full_force(gamma: float) -> None:
    """timm's multi-label loss adds 1e-8 inside the logarithm, and its gradient there is -1e-7."""
    found = gradient(BinaryFocalLoss(gamma), torch.tensor([[-19.0, -19.0]]), torch.tensor([0]))
    assert found[0, 0].item() == pytest.approx(-1, abs=1e-5)
