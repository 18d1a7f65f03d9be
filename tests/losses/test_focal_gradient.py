"""Where focal's gradient is larger than cross-entropy's, where smaller, where the same."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from losslab.losses import CrossEntropyLoss, FocalLoss, focal_crossover, focal_gradient_ratio, matching_gamma

GAMMAS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
P = torch.cat([torch.logspace(-12, -1, 45, dtype=torch.float64), torch.linspace(0.11, 0.499, 60, dtype=torch.float64)])


@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_the_ratio_is_that_of_the_losses_gradients(gamma: float) -> None:
    p = torch.cat([P, 1 - P])
    logits = torch.stack([p, 1 - p], 1).log().requires_grad_()
    labels = torch.zeros(len(p), dtype=torch.int64)
    focals, cross_entropys = (
        torch.autograd.grad(loss(logits, labels).sum(), logits)[0]
        for loss in (FocalLoss(gamma, "none"), CrossEntropyLoss("none"))
    )
    torch.testing.assert_close(focal_gradient_ratio(p, gamma), (focals / cross_entropys)[:, 0], rtol=1e-9, atol=1e-300)


def test_the_ratio_is_1_for_gamma_0_and_at_p_0_and_0_at_p_1() -> None:
    assert (focal_gradient_ratio(P, 0.0) == 1).all()
    ends = torch.tensor([1e-15, 1 - 1e-15], dtype=torch.float64)
    assert focal_gradient_ratio(ends, 2.0).tolist() == pytest.approx([1, 0], abs=1e-12)


def test_the_ratio_takes_a_gamma_for_each_p() -> None:
    p, gamma = torch.tensor([0.1, 0.5]).double(), torch.tensor([[1.0], [2.0]]).double()
    found = focal_gradient_ratio(p, gamma)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found[1], focal_gradient_ratio(p, 2.0))


def test_a_confident_image_pulls_about_0_03_times_as_hard() -> None:
    ratio = focal_gradient_ratio(torch.tensor([0.9]).double(), 2.0).item()
    assert ratio == pytest.approx(0.1**2 - 2 * 0.9 * 0.1 * math.log(0.9), rel=1e-6)


@pytest.mark.parametrize(
    ("gamma", "p"), [(0.5, 0.4215), (1, 1 / math.e), (2, 0.2976), (3, 0.2526), (5, 0.1968), (10, 0.1307)]
)
def test_it_pulls_harder_than_cross_entropy_below_one_probability_and_less_above(gamma: float, p: float) -> None:
    """The exam's question, when is focal's gradient cross-entropy's?"""
    assert focal_crossover(gamma) == pytest.approx(p, abs=1e-4)
    grid = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64)
    ratio = focal_gradient_ratio(grid, gamma)
    assert torch.equal(ratio > 1, grid < focal_crossover(gamma))


@pytest.mark.parametrize("gamma", [1e-3, 0.1, *GAMMAS, 100.0, 1e4, 1e8])
def test_at_the_crossover_the_ratio_is_1(gamma: float) -> None:
    crossover = torch.tensor(focal_crossover(gamma), dtype=torch.float64)
    assert 0 < crossover < 0.5
    assert focal_gradient_ratio(crossover, gamma).item() == pytest.approx(1, abs=1e-8)
    # In gamma the ratio is flat there for a small gamma, so that digits are lost.
    assert matching_gamma(crossover).item() == pytest.approx(gamma, rel=1e-6 if gamma > 0.01 else 1e-3)


def test_the_crossover_falls_with_gamma_from_one_half() -> None:
    found = [focal_crossover(gamma) for gamma in (1e-6, 1e-3, *GAMMAS, 1e3, 1e6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(0.5, abs=1e-5)


def lambert(p: float) -> mpmath.mpf:
    """Mukhoti et al. 2020, proposition 2, with 60 digits."""
    with mpmath.workdps(60):
        p = mpmath.mpf(p)
        b, c = mpmath.log(1 - p), -p * mpmath.log(p) / (1 - p)
        return mpmath.lambertw(b / c * mpmath.exp(b / c), -1).real / b - 1 / c


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_matching_gamma_is_as_exact_as_it_says(dtype: torch.dtype, rtol: float) -> None:
    p = P.to(dtype)
    found = matching_gamma(p)
    assert found.dtype == dtype
    errors = [abs(g / lambert(q) - 1) for g, q in zip(found.tolist(), p.tolist(), strict=True)]
    assert float(max(errors)) <= rtol


def test_matching_gamma_is_scipys_lambert_w() -> None:
    """Whose own digits are lost near p = 1/2, where the branches of W meet."""
    p = P[P <= 0.49].numpy()
    b, c = np.log1p(-p), -p * np.log(p) / (1 - p)
    expected = scipy.special.lambertw(b / c * np.exp(b / c), -1).real / b - 1 / c
    torch.testing.assert_close(matching_gamma(P[P <= 0.49]), torch.from_numpy(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [1e-12, 1e-6, 0.01, 0.2, 0.25, 0.4, 0.49])
def test_matching_gamma_is_the_root_that_bisection_finds(p: float) -> None:
    """Of r(p, gamma) = 1 for gamma > 0: r is above 1 below the root and under 1 above it."""
    with mpmath.workdps(60):
        exact = mpmath.mpf(p)

        def ratio_less_1(gamma: mpmath.mpf) -> mpmath.mpf:
            return (1 - exact) ** gamma * (1 - gamma * exact * mpmath.log(exact) / (1 - exact)) - 1

        low, high = mpmath.mpf("1e-6"), mpmath.mpf("1e15")
        assert ratio_less_1(low) > 0 > ratio_less_1(high)
        for _ in range(160):
            middle = mpmath.sqrt(low * high)
            low, high = (middle, high) if ratio_less_1(middle) > 0 else (low, middle)
    assert matching_gamma(torch.tensor(p, dtype=torch.float64)).item() == pytest.approx(float(low), rel=1e-12)


def test_matching_gamma_falls_with_p_and_keeps_its_shape() -> None:
    assert (matching_gamma(P).diff() < 0).all()
    assert matching_gamma(P.reshape(5, 21)).shape == (5, 21)
    assert not matching_gamma(P.clone().requires_grad_()).requires_grad


def test_for_p_from_one_half_on_every_gamma_shrinks_the_gradient() -> None:
    p: Tensor = torch.linspace(0.5, 0.999, 100, dtype=torch.float64)
    for gamma in (0.01, *GAMMAS):
        assert (focal_gradient_ratio(p, gamma) < 1).all()


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_p_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\), got"):
        focal_gradient_ratio(torch.tensor([0.5, p]), 2.0)


def test_a_gamma_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma must be >= 0, got -1"):
        focal_gradient_ratio(torch.tensor([0.5]), -1.0)
    for gamma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"gamma must be > 0 and finite, got {gamma}"):
            focal_crossover(gamma)
