"""psi undoes what focal loss does to confidence."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from losslab.losses import FocalLoss, focal_to_probability

GAMMAS = (0.5, 1.0, 2.0, 5.0)
ETAS = ((0.9, 0.1), (0.55, 0.45), (0.7, 0.2, 0.1), (0.4, 0.35, 0.25), (0.6, 0.25, 0.1, 0.05), (0.97, 0.01, 0.01, 0.01))

every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


def fitted(eta: tuple[float, ...], gamma: float) -> Tensor:
    """The logits (1, C) at which the focal loss of the target eta is least."""
    logits = torch.zeros(1, len(eta), dtype=torch.float64, requires_grad=True)
    target = torch.tensor([eta], dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = FocalLoss(gamma)(logits, target)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


@every_gamma
@pytest.mark.parametrize("eta", ETAS, ids=str)
def test_it_recovers_the_probabilities_that_focal_was_fitted_to(eta: tuple[float, ...], gamma: float) -> None:
    logits = fitted(eta, gamma)
    assert logits.softmax(1).max() < max(eta) - 1e-3  # focal itself is less confident
    found = focal_to_probability(logits, gamma)
    torch.testing.assert_close(found, torch.tensor([eta], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gamma", "p"), [(1.0, 0.774), (2.0, 0.694), (5.0, 0.597)])
def test_a_true_probability_of_0_9_is_fitted_as_less(gamma: float, p: float) -> None:
    assert fitted((0.9, 0.1), gamma).softmax(1)[0, 0].item() == pytest.approx(p, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_it_keeps_the_order_of_classes_and_rows_sum_to_1(gamma: float) -> None:
    logits = 4 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    psi = focal_to_probability(logits, gamma)
    assert psi.dtype == torch.float32
    assert torch.equal(psi.argsort(1), logits.argsort(1))
    torch.testing.assert_close(psi.sum(1), torch.ones(200))
    assert (psi.max(1).values >= logits.softmax(1).max(1).values - 1e-6).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_it_is_exact_to_1e_5_for_margins_up_to_30(gamma: float) -> None:
    """psi_k ~ p_k / r(p_k), with 60 digits."""
    logits = torch.zeros(121, 3)
    logits[:, 1], logits[:, 2] = torch.arange(-30, 30.5, 0.5), 1.0
    found = focal_to_probability(logits, gamma).tolist()
    with mpmath.workdps(60):
        for z, row in zip(logits.tolist(), found, strict=True):
            powers = [mpmath.exp(value) for value in z]
            p = [power / sum(powers) for power in powers]
            r = [(1 - q) ** gamma - gamma * q * (1 - q) ** (mpmath.mpf(gamma) - 1) * mpmath.log(q) for q in p]
            psi = [q / s for q, s in zip(p, r, strict=True)]
            for value, truth in zip(row, psi, strict=True):
                truth /= sum(psi)
                assert truth < 1e-30 or abs(value / truth - 1) <= 1e-5, (z, value, truth)


def test_gamma_0_is_softmax() -> None:
    logits = 4 * torch.randn(50, 5, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(focal_to_probability(logits, 0.0), logits.softmax(1), rtol=1e-12, atol=1e-15)


@every_gamma
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_far_and_masked_logits_have_finite_probabilities(gamma: float, dtype: torch.dtype) -> None:
    margins = torch.tensor([8, 17, 20, 37, 50, 89, 104, 1e3, 1e4, 6e4], dtype=dtype)
    zero = torch.zeros_like(margins)
    for third in (zero, torch.full_like(margins, -math.inf)):
        for sign in (1, -1):
            psi = focal_to_probability(torch.stack([sign * margins, zero, third], dim=1), gamma)
            assert psi.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert psi.isfinite().all()
            torch.testing.assert_close(psi.sum(1), torch.ones_like(psi[:, 0]))
            assert (psi.argmax(1) == (0 if sign > 0 else 1)).all()
            if third is not zero:
                assert (psi[:, 2] == 0).all()


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_a_gamma_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma must be >= 0 and finite, got {gamma}"):
        focal_to_probability(torch.zeros(1, 2), gamma)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.int64)],
    ids=["1-d", "one class", "integers"],
)
def test_logits_of_a_wrong_shape_or_dtype_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"logits must be floating, \(N, C\) with C >= 2, got"):
        focal_to_probability(bad, 2.0)
