import itertools
import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from losslab.losses import CrossEntropyLoss, FocalLoss

GAMMAS = (0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0)


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


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gamma_0_is_cross_entropy_in_value_and_gradient(logits, labels, probabilities, reduction, weights, smoothing):
    focal, cross_entropy = FocalLoss(0, reduction, weights, smoothing), CrossEntropyLoss(reduction, weights, smoothing)
    for target in (labels, probabilities):
        one, other = focal(logits, target), cross_entropy(logits, target)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient(one, logits), gradient(other, logits), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_its_ratio_to_cross_entropy_is_1_minus_p_to_the_gamma(logits, labels, gamma):
    p_t = logits.softmax(dim=1)[torch.arange(8), labels]
    focal = FocalLoss(gamma, "none")
    ratio = focal(logits, labels) / CrossEntropyLoss("none")(logits, labels)
    torch.testing.assert_close(ratio, (1 - p_t) ** focal.gamma.item(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_its_gradient_is_the_closed_form(logits, labels, gamma):
    """dl/dz = A (p - onehot), A = (1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) log p_t."""
    focal = FocalLoss(gamma, "none")
    gamma = focal.gamma.item()  # as float32 holds it
    p = logits.detach().softmax(dim=1)
    p_t = p[torch.arange(8), labels]
    factor = (1 - p_t) ** gamma - gamma * p_t * (1 - p_t) ** (gamma - 1) * p_t.log()
    expected = factor.unsqueeze(1) * (p - F.one_hot(labels, 5))
    actual = gradient(focal(logits, labels), logits)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("classes", [2, 10])
def test_float32_is_exact_to_1e_5_for_margins_up_to_30(gamma, classes):
    """Against 60 digits. Truths below float32's smallest normal number cannot be told from 0 and are left out."""
    margins = torch.arange(-30, 30.5, 0.5)
    logits = torch.zeros(len(margins), classes)
    logits[:, 1] = margins
    losses = FocalLoss(gamma, "none")(logits, torch.ones(len(margins), dtype=torch.int64))
    compared = 0
    with mpmath.workdps(60):
        for z, loss in zip(margins.tolist(), losses.tolist(), strict=True):
            others = mpmath.mpf(classes - 1)
            p_t = mpmath.exp(z) / (mpmath.exp(z) + others)
            truth = -((others / (mpmath.exp(z) + others)) ** mpmath.mpf(gamma)) * mpmath.log(p_t)
            if truth > torch.finfo(torch.float32).tiny:
                compared += 1
                assert abs(loss / truth - 1) <= 1e-5, f"margin {z}"
    assert compared >= 85


@pytest.mark.parametrize(("low", "high"), list(itertools.pairwise(GAMMAS)))
def test_it_falls_with_gamma(logits, labels, low, high):
    assert (FocalLoss(high, "none")(logits, labels) < FocalLoss(low, "none")(logits, labels)).all()


@pytest.mark.parametrize("gamma", [0.1, 1.0, 2.0, 5.0])
def test_it_is_cross_entropy_less_at_most_gamma_times_a_bound(logits, labels, gamma):
    """0 <= CE - FL <= gamma |log(1 - p_t)| CE, from 1 - e^-x <= x; and FL >= CE - gamma H(p) for one-hot targets."""
    p = logits.softmax(dim=1)
    p_t = p[torch.arange(8), labels]
    cross_entropy = CrossEntropyLoss("none")(logits, labels)
    less = cross_entropy - FocalLoss(gamma, "none")(logits, labels)
    assert (less >= 0).all()
    assert (less <= gamma * -torch.log1p(-p_t) * cross_entropy + 1e-12).all()
    assert (less <= gamma * -(p * p.log()).sum(dim=1) + 1e-12).all()


def gradient_ratio(p_t: float, gamma: float) -> float:
    """Focal's gradient over cross-entropy's, for a label of probability p_t among two classes."""
    logits = torch.tensor([[math.log(p_t), math.log1p(-p_t)]], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0])
    return float(
        (gradient(FocalLoss(gamma)(logits, label), logits) / gradient(CrossEntropyLoss()(logits, label), logits))[0, 0]
    )


@pytest.mark.parametrize(("gamma", "p"), [(0.5, 0.4215), (1, 1 / math.e), (2, 0.2976), (5, 0.1968), (10, 0.1307)])
def test_it_pulls_harder_than_cross_entropy_below_one_probability_and_less_above(gamma, p):
    assert gradient_ratio(p, gamma) == pytest.approx(1, abs=1e-3)
    assert gradient_ratio(0.9 * p, gamma) > 1.005
    assert gradient_ratio(1.1 * p, gamma) < 0.995


def test_a_confident_image_pulls_about_0_03_times_as_hard():
    assert gradient_ratio(0.9, 2) == pytest.approx(0.1**2 - 2 * 0.9 * 0.1 * math.log(0.9))


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_its_optimum_keeps_the_order_of_two_classes_with_less_confidence(p, gamma):
    """It is where the classes' true shares are proportional to p_k / r(p_k), r the ratio of the gradients."""
    shares = torch.tensor([p / gradient_ratio(p, gamma), (1 - p) / gradient_ratio(1 - p, gamma)], dtype=torch.float64)
    shares /= shares.sum()
    logits = torch.tensor([[p, 1 - p]], dtype=torch.float64).log().requires_grad_()
    found = gradient(FocalLoss(gamma)(logits, shares.unsqueeze(0)), logits)
    torch.testing.assert_close(found, torch.zeros(1, 2).double(), rtol=0, atol=1e-12)
    assert shares[0] > p


def test_gamma_is_a_0_dim_buffer_outside_the_checkpoint():
    loss = FocalLoss(1.5)
    assert dict(loss.named_buffers())["gamma"].shape == ()
    assert loss.gamma == 1.5
    assert "gamma" not in loss.state_dict()
    assert repr(loss) == "FocalLoss(gamma=1.5)"


def test_vmap_over_stacked_losses_is_each_loss(logits, labels, probabilities):
    losses = [FocalLoss(gamma, label_smoothing=0.1) for gamma in GAMMAS]
    parameters, buffers = stack_module_state(losses)
    assert buffers["gamma"].tolist() == pytest.approx(GAMMAS)
    for target in (labels, probabilities):

        def loss(state: dict[str, Tensor], z: Tensor, target: Tensor = target) -> Tensor:
            return functional_call(losses[0], state, (z, target))

        values = vmap(loss, (0, None))({**parameters, **buffers}, logits)
        gradients = vmap(grad(loss, 1), (0, None))({**parameters, **buffers}, logits)
        for i, separate in enumerate(losses):
            torch.testing.assert_close(values[i], separate(logits, target), rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(gradients[i], gradient(separate(logits, target), logits), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("margin", [-6e4, -17.0, 0.0, 17.0, 6e4])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_its_derivative_in_gamma_is_finite(margin, gamma):
    for target in (torch.tensor([0]), torch.tensor([[0.75, 0.25, 0.0]])):
        loss = FocalLoss(gamma)
        loss.gamma.requires_grad_()
        (derivative,) = torch.autograd.grad(loss(torch.tensor([[margin, 0.0, 0.0]]), target), loss.gamma)
        assert derivative.isfinite()
        assert derivative <= 0  # a larger gamma is a smaller loss


# Inputs at which other libraries' focal losses fail.


@pytest.mark.parametrize(
    ("dtype", "margin"),
    [(torch.float32, 17.0), (torch.float64, 37.0), (torch.bfloat16, 6.25), (torch.float16, 8.5), (torch.float32, -18)],
    ids=str,
)
def test_b1_a_gamma_below_1_at_a_confident_image_has_a_finite_gradient(dtype, margin):
    """(1 - p)^gamma has an infinite derivative where p rounds to 1: one such image made the whole gradient NaN."""
    logits = torch.tensor([[margin, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    found = gradient(FocalLoss(0.5)(logits, torch.tensor([0, 0])), logits)
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


@pytest.mark.parametrize("margin", [17.0, 50.0, 1e4])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_b9_a_hopeless_image_is_still_corrected(margin, gamma):
    logits = torch.tensor([[-margin, 0.0, -margin]], requires_grad=True)
    found = gradient(FocalLoss(gamma)(logits, torch.tensor([0])), logits)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]), rtol=0, atol=1e-4)


def test_b13_weights_do_not_enter_the_probability():
    loss = FocalLoss(2.0, "none", class_weights=[1.0, 5.0])(torch.zeros(1, 2), torch.tensor([1]))
    assert loss.item() == pytest.approx(5 * 0.5**2 * math.log(2))


@pytest.mark.parametrize("gamma", [-1.0, -1e-9, float("nan"), float("inf")])
def test_a_gamma_that_is_negative_or_not_finite_is_refused(gamma):
    with pytest.raises(ValueError, match=f"gamma must be >= 0 and finite, got {gamma}"):
        FocalLoss(gamma)
