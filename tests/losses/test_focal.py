import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from loss_examples import GAMMAS
from torch import Tensor

from losslab.losses import (
    CrossEntropyLoss,
    FocalLoss,
    focal_crossover,
    focal_gradient_ratio,
    focal_to_probability,
    matching_gamma,
)

every_gamma = pytest.mark.parametrize("gamma", GAMMAS)


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


@pytest.fixture
def probabilities() -> Tensor:
    return torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), logits)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.0, 3.0)], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gamma_0_is_cross_entropy_bit_for_bit_in_value_and_gradient(
    logits, labels, probabilities, dtype, reduction, weights, smoothing
):
    logits = logits.detach().to(dtype).requires_grad_()
    arguments = {"reduction": reduction, "class_weights": weights, "label_smoothing": smoothing}
    focal, cross_entropy = FocalLoss(0, **arguments), CrossEntropyLoss(**arguments)
    for target in (labels, probabilities):
        one, other = focal(logits, target), cross_entropy(logits, target)
        assert torch.equal(one, other)
        assert torch.equal(gradient(one, logits), gradient(other, logits))


@every_gamma
def test_its_ratio_to_cross_entropy_is_1_minus_p_to_the_gamma(logits, labels, gamma):
    p_t = logits.softmax(dim=1)[torch.arange(8), labels]
    focal = FocalLoss(gamma, reduction="none")
    ratio = focal(logits, labels) / CrossEntropyLoss("none")(logits, labels)
    torch.testing.assert_close(ratio, (1 - p_t) ** focal.gamma.item(), rtol=1e-11, atol=0)


@every_gamma
def test_its_gradient_is_the_closed_form(logits, labels, gamma):
    """dl/dz = A (p - onehot), A = (1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) log p_t."""
    focal = FocalLoss(gamma, reduction="none")
    gamma = focal.gamma.item()  # as float32 holds it
    p = logits.detach().softmax(dim=1)
    p_t = p[torch.arange(8), labels]
    factor = (1 - p_t) ** gamma - gamma * p_t * (1 - p_t) ** (gamma - 1) * p_t.log()
    expected = factor.unsqueeze(1) * (p - F.one_hot(labels, 5))
    actual = gradient(focal(logits, labels), logits)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@every_gamma
def test_two_classes_are_the_binary_loss_of_the_difference(labels, gamma):
    """With d = z_1 - z_0: -s(-d)^gamma log s(d) for class 1, -s(d)^gamma log s(-d) for class 0; and its derivative."""
    logits = 4 * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits.requires_grad_()
    loss = FocalLoss(gamma, reduction="none")
    gamma = loss.gamma.item()
    labels = labels % 2
    d = (logits[:, 1] - logits[:, 0]).detach() * (2 * labels - 1)  # of the label over the other
    s, other, log_s = d.sigmoid(), (-d).sigmoid(), F.logsigmoid(d)
    torch.testing.assert_close(loss(logits, labels), -(other**gamma) * log_s, rtol=1e-12, atol=1e-15)
    slope = -(other**gamma) * (other - gamma * s * log_s)
    expected = torch.where(labels[:, None] == torch.arange(2), slope[:, None], -slope[:, None])
    torch.testing.assert_close(gradient(loss(logits, labels), logits), expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("low", "high"), list(itertools.pairwise(GAMMAS)))
def test_it_falls_with_gamma(logits, labels, low, high):
    assert (FocalLoss(high, reduction="none")(logits, labels) < FocalLoss(low, reduction="none")(logits, labels)).all()


@pytest.mark.parametrize("gamma", [0.001, 0.1, 1.0, 2.0, 5.0])
def test_it_is_cross_entropy_less_at_most_gamma_times_a_bound(logits, labels, probabilities, gamma):
    """0 <= CE - FL <= gamma |log(1 - p_t)| CE, from 1 - e^-x <= x; and for any target FL >= CE - gamma H(p)."""
    p = logits.softmax(dim=1)
    p_t = p[torch.arange(8), labels]
    cross_entropy = CrossEntropyLoss("none")(logits, labels)
    less = cross_entropy - FocalLoss(gamma, reduction="none")(logits, labels)
    assert (less >= 0).all()
    assert (less <= gamma * -torch.log1p(-p_t) * cross_entropy + 1e-9).all()
    entropy = -(p * p.log()).sum(dim=1)
    for target in (labels, probabilities):
        less = CrossEntropyLoss("none")(logits, target) - FocalLoss(gamma, reduction="none")(logits, target)
        assert (less <= gamma * entropy + 1e-9).all()


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_its_derivative_in_gamma_is_the_loss_times_log_1_minus_p(p, gamma):
    loss = FocalLoss(gamma)
    loss.gamma.requires_grad_()
    value = loss(torch.tensor([[p, 1 - p]], dtype=torch.float64).log(), torch.tensor([0]))
    (derivative,) = torch.autograd.grad(value, loss.gamma)
    assert derivative.item() == pytest.approx(value.item() * math.log1p(-p), rel=1e-6)


def test_gamma_is_a_0_dim_buffer_outside_the_checkpoint():
    loss = FocalLoss(1.5)
    assert dict(loss.named_buffers())["gamma"].shape == ()
    assert loss.gamma == 1.5
    assert "gamma" not in loss.state_dict()
    assert repr(loss) == "FocalLoss(gamma=1.5)"


@pytest.mark.parametrize("gamma", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_gamma_that_is_negative_or_not_finite_is_refused(gamma):
    with pytest.raises(ValueError, match=f"gamma must be >= 0 and finite, got {gamma}"):
        FocalLoss(gamma)


# Inputs at which other libraries' focal losses fail.


@pytest.mark.parametrize(
    ("dtype", "margin"),
    [(torch.float32, 17.0), (torch.float64, 37.0), (torch.bfloat16, 6.25), (torch.float16, 8.5), (torch.float32, -18)],
    ids=str,
)
def test_b1_a_gamma_below_1_at_a_confident_image_has_a_finite_gradient(dtype, margin):
    """(1 - p)^gamma has an infinite derivative where p rounds to 1: one such image made the whole gradient NaN."""
    for gamma in (0.1, 0.5, 0.9):
        logits = torch.tensor([[margin, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
        found = gradient(FocalLoss(gamma)(logits, torch.tensor([0, 0])), logits)
        assert found.isfinite().all()
        assert found[1, 0] < 0


@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_b2_second_derivatives_at_a_confident_image_are_finite(gamma):
    logits = torch.tensor([[17.0, 0.0]], requires_grad=True)
    (first,) = torch.autograd.grad(FocalLoss(gamma)(logits, torch.tensor([0])), logits, create_graph=True)
    assert gradient(first.square(), logits).isfinite().all()


def test_b3_a_confident_mistake_has_a_finite_gradient():
    logits = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    found = gradient(FocalLoss(0.5)(logits, torch.tensor([1])), logits)
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0, 0.0]]), rtol=0, atol=1e-6)


def test_b6_gamma_0_is_cross_entropy_and_a_shift_changes_nothing(logits, labels):
    """smp's multi-class focal: 1.21 where cross-entropy is 4.85, and 898 more for logits shifted by 100."""
    loss = FocalLoss(0.0)(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels), rtol=1e-12, atol=0)
    torch.testing.assert_close(FocalLoss(0.0)(logits + 100, labels), loss, rtol=1e-11, atol=0)


def test_b7_it_is_of_the_softmax_not_a_sum_of_one_vs_rest_losses(logits, labels):
    """toolbelt's CrossEntropyFocalLoss of gamma 0 is the sum of binary cross-entropies, and moves with a shift."""
    one_vs_rest = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 5).double(), reduction="sum") / 8
    assert (FocalLoss(0.0)(logits, labels) - one_vs_rest).abs() > 0.1
    for gamma in (0.0, 2.0):
        loss = FocalLoss(gamma)
        torch.testing.assert_close(loss(logits + 100, labels), loss(logits, labels), rtol=1e-10, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_b8_the_factor_is_smaller_for_easier_images(gamma):
    """toolbelt's reduced_threshold: 1.00 for an easy image and 1.54 for a hard one."""
    logits = torch.stack([torch.linspace(-6, 6, 49), torch.zeros(49)], dim=1).double()
    labels = torch.zeros(49, dtype=torch.int64)
    factor = FocalLoss(gamma, reduction="none")(logits, labels) / CrossEntropyLoss("none")(logits, labels)
    assert (factor.diff() < 0).all()
    assert (factor <= 1).all()


@pytest.mark.parametrize("margin", [17.0, 50.0, 1e4])
@every_gamma
def test_b9_a_hopeless_image_is_still_corrected(margin, gamma):
    """Keras clips p at 1e-7, from where on the gradient is 0."""
    logits = torch.tensor([[-margin, 0.0, -margin]], requires_grad=True)
    found = gradient(FocalLoss(gamma)(logits, torch.tensor([0])), logits)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]), rtol=0, atol=1e-4)


def test_b13_weights_do_not_enter_the_probability():
    """LDAM-DRW's focal takes exp(-w CE) for p: 3.253."""
    loss = FocalLoss(2.0, reduction="none", class_weights=[1.0, 5.0])(torch.zeros(1, 2), torch.tensor([1]))
    assert loss.item() == pytest.approx(5 * 0.5**2 * math.log(2))


@pytest.mark.parametrize(("gamma", "logit"), [(5.0, 13_120.0), (2.0, 32_768.0), (10.0, 6_560.0)])
def test_b17_a_far_wrong_half_logit_does_not_overflow(gamma, logit):
    """gamma |z| > 65,504, the largest float16: kornia's gradient is NaN."""
    logits = torch.tensor([[logit, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = FocalLoss(gamma)(logits, torch.tensor([1]))
    assert loss == logit
    assert gradient(loss, logits).tolist() == [[1.0, -1.0]]


def test_b20_the_minimiser_for_a_soft_target_is_that_of_labels_drawn_from_it():
    """gamma = 2, target 0.9: p = 0.694. torchvision and fvcore find 0.986, MONAI 1.000 and smp 0.900."""
    p = torch.linspace(0.5, 0.9999, 20_000, dtype=torch.float64)
    logits = torch.stack([p, 1 - p], dim=1).log()
    of_soft = FocalLoss(2.0, reduction="none")(logits, torch.tensor([0.9, 0.1]).expand(len(p), -1))
    of_drawn = -0.9 * (1 - p) ** 2 * p.log() - 0.1 * p**2 * torch.log1p(-p)
    assert p[of_soft.argmin()].item() == pytest.approx(0.694, abs=1e-3)
    assert of_soft.argmin() == of_drawn.argmin()


def test_b21_a_confident_image_under_autocast_has_a_finite_gradient():
    """bfloat16, logit 8, gamma 0.5: torchvision's gradient of the weights is NaN."""
    layer = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.constant_(layer.weight, 8.0)
    with torch.no_grad():
        layer.weight[1] = 0
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(torch.ones(1, 1))
        assert logits.dtype == torch.bfloat16
        loss = FocalLoss(0.5)(logits, torch.tensor([0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad[0] < 0


RATIO_GAMMAS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
P = torch.cat([torch.logspace(-12, -1, 45, dtype=torch.float64), torch.linspace(0.11, 0.499, 60, dtype=torch.float64)])


@pytest.mark.parametrize("gamma", [0.0, *RATIO_GAMMAS])
def test_the_ratio_is_that_of_the_losses_gradients(gamma: float) -> None:
    p = torch.cat([P, 1 - P])
    logits = torch.stack([p, 1 - p], 1).log().requires_grad_()
    labels = torch.zeros(len(p), dtype=torch.int64)
    focals, cross_entropys = (
        torch.autograd.grad(loss(logits, labels).sum(), logits)[0]
        for loss in (FocalLoss(gamma, reduction="none"), CrossEntropyLoss("none"))
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


@pytest.mark.parametrize("gamma", [1e-3, 0.1, *RATIO_GAMMAS, 100.0, 1e4, 1e8])
def test_at_the_crossover_the_ratio_is_1(gamma: float) -> None:
    crossover = torch.tensor(focal_crossover(gamma), dtype=torch.float64)
    assert 0 < crossover < 0.5
    assert focal_gradient_ratio(crossover, gamma).item() == pytest.approx(1, abs=1e-8)
    # In gamma the ratio is flat there for a small gamma, so that digits are lost.
    assert matching_gamma(crossover).item() == pytest.approx(gamma, rel=1e-6 if gamma > 0.01 else 1e-3)


def test_the_crossover_falls_with_gamma_from_one_half() -> None:
    found = [focal_crossover(gamma) for gamma in (1e-6, 1e-3, *RATIO_GAMMAS, 1e3, 1e6)]
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
    for gamma in (0.01, *RATIO_GAMMAS):
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


PSI_GAMMAS = (0.5, 1.0, 2.0, 5.0)
ETAS = ((0.9, 0.1), (0.55, 0.45), (0.7, 0.2, 0.1), (0.4, 0.35, 0.25), (0.6, 0.25, 0.1, 0.05), (0.97, 0.01, 0.01, 0.01))


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


@pytest.mark.parametrize("gamma", PSI_GAMMAS)
@pytest.mark.parametrize("eta", ETAS, ids=str)
def test_it_recovers_the_probabilities_that_focal_was_fitted_to(eta: tuple[float, ...], gamma: float) -> None:
    logits = fitted(eta, gamma)
    assert logits.softmax(1).max() < max(eta) - 1e-3  # focal itself is less confident
    found = focal_to_probability(logits, gamma)
    torch.testing.assert_close(found, torch.tensor([eta], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gamma", "p"), [(1.0, 0.774), (2.0, 0.694), (5.0, 0.597)])
def test_a_true_probability_of_0_9_is_fitted_as_less(gamma: float, p: float) -> None:
    assert fitted((0.9, 0.1), gamma).softmax(1)[0, 0].item() == pytest.approx(p, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.0, *PSI_GAMMAS])
def test_it_keeps_the_order_of_classes_and_rows_sum_to_1(gamma: float) -> None:
    logits = 4 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    psi = focal_to_probability(logits, gamma)
    assert psi.dtype == torch.float32
    assert torch.equal(psi.argsort(1), logits.argsort(1))
    torch.testing.assert_close(psi.sum(1), torch.ones(200))
    assert (psi.max(1).values >= logits.softmax(1).max(1).values - 1e-6).all()


@pytest.mark.parametrize("gamma", PSI_GAMMAS)
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


@pytest.mark.parametrize("gamma", PSI_GAMMAS)
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
def test_psi_refuses_a_gamma_out_of_range(gamma: float) -> None:
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
