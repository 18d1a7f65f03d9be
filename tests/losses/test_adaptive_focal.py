"""Focal loss whose gamma follows the probability of the label."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses import AdaptiveFocalLoss, CrossEntropyLoss, FocalLoss, focal_gradient_ratio, matching_gamma

P = torch.cat([torch.logspace(-12, -1, 45), torch.linspace(0.105, 0.995, 90)]).double()
LABELS = torch.zeros(len(P), dtype=torch.int64)


def at(p: Tensor) -> Tensor:
    """Logits (N, 3) with the label, class 0, at these probabilities, and the rest shared 1 : 2."""
    return torch.stack([p, (1 - p) / 3, 2 * (1 - p) / 3], dim=1).log()


def value_and_gradient(loss: torch.nn.Module, p: Tensor = P) -> tuple[Tensor, Tensor]:
    logits = at(p).requires_grad_()
    value = loss(logits, LABELS[: len(p)])
    return value, torch.autograd.grad(value.sum(), logits)[0]


def test_flsd_53_is_gamma_5_below_0_2_and_gamma_3_above() -> None:
    value, gradient = value_and_gradient(AdaptiveFocalLoss(reduction="none"))
    for gamma, where in ((5.0, P < 0.2), (3.0, P >= 0.2)):
        expected, expected_gradient = value_and_gradient(FocalLoss(gamma, reduction="none"))
        assert where.sum() > 20
        torch.testing.assert_close(value[where], expected[where], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[where], expected_gradient[where], rtol=1e-12, atol=0)


@pytest.mark.parametrize("p_0", [0.0625, 0.25, 0.4375])
def test_lambert_w_has_cross_entropys_gradient_below_p_0(p_0: float) -> None:
    _, gradient = value_and_gradient(AdaptiveFocalLoss("lambert_w", p_0, reduction="none"))
    _, cross_entropys = value_and_gradient(CrossEntropyLoss("none"))
    below = p_0 > P
    torch.testing.assert_close(gradient[below], cross_entropys[below], rtol=1e-11, atol=1e-14)
    assert (gradient[~below, 0].abs() < cross_entropys[~below, 0].abs()).all()


@pytest.mark.parametrize("p_0", [0.0625, 0.25, 0.4375])
def test_lambert_w_is_one_fixed_gamma_from_p_0_on(p_0: float) -> None:
    loss = AdaptiveFocalLoss("lambert_w", p_0, reduction="none")
    fixed = FocalLoss(0.0, reduction="none")
    fixed.gamma = matching_gamma(torch.tensor(p_0, dtype=torch.float64))
    from_on = p_0 <= P
    for found, expected in zip(value_and_gradient(loss), value_and_gradient(fixed), strict=True):
        torch.testing.assert_close(found[from_on], expected[from_on], rtol=1e-11, atol=1e-300)


def test_gamma_at_p_0_is_the_schedules_5_and_3() -> None:
    """4.85 at 0.2 and 3.07 at 0.25, which the published schedule rounds."""
    gammas = matching_gamma(torch.tensor([0.2, 0.25], dtype=torch.float64))
    assert gammas.tolist() == pytest.approx([4.85, 3.07], abs=5e-3)


@pytest.mark.parametrize("rule", ["flsd_53", "lambert_w"])
def test_its_gradient_is_focals_closed_form_with_gamma_held_fixed(rule: str) -> None:
    """A (p - onehot), A = r(p_t, gamma(p_t)): no gradient flows through gamma."""
    _, gradient = value_and_gradient(AdaptiveFocalLoss(rule, reduction="none"))
    gamma = torch.where(P < 0.2, 5.0, 3.0) if rule == "flsd_53" else matching_gamma(P.clamp_max(0.25))
    factor = torch.stack([focal_gradient_ratio(p, g) for p, g in zip(P, gamma, strict=True)])
    expected = factor[:, None] * (at(P).softmax(dim=1) - F.one_hot(LABELS, 3))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("margin", [40.0, 87.0, 100.0, 1e4])
def test_lambert_w_keeps_cross_entropys_gradient_however_small_p_is(margin: float) -> None:
    logits = torch.tensor([[-margin, 0.0]], requires_grad=True)
    for target in (torch.tensor([0]), torch.tensor([[1.0, 0.0]])):
        (gradient,) = torch.autograd.grad(AdaptiveFocalLoss("lambert_w")(logits, target), logits)
        torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]]), rtol=1e-4, atol=0)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="rule must be 'flsd_53' or 'lambert_w', got 'flsd'"):
        AdaptiveFocalLoss("flsd")
    for p_0 in (0.0, 0.5, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"p_0 must be in \(0, 0.5\), got {p_0}"):
            AdaptiveFocalLoss("lambert_w", p_0)


def test_it_shows_its_arguments() -> None:
    assert repr(AdaptiveFocalLoss()) == "AdaptiveFocalLoss(rule='flsd_53')"
    assert repr(AdaptiveFocalLoss("lambert_w")) == "AdaptiveFocalLoss(rule='lambert_w', p_0=0.25)"
