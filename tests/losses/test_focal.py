import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from loss_examples import GAMMAS
from torch import Tensor

from losslab.losses import CrossEntropyLoss, FocalLoss

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
    focal, cross_entropy = FocalLoss(0, reduction, weights, smoothing), CrossEntropyLoss(reduction, weights, smoothing)
    for target in (labels, probabilities):
        one, other = focal(logits, target), cross_entropy(logits, target)
        assert torch.equal(one, other)
        assert torch.equal(gradient(one, logits), gradient(other, logits))


@every_gamma
def test_its_ratio_to_cross_entropy_is_1_minus_p_to_the_gamma(logits, labels, gamma):
    p_t = logits.softmax(dim=1)[torch.arange(8), labels]
    focal = FocalLoss(gamma, "none")
    ratio = focal(logits, labels) / CrossEntropyLoss("none")(logits, labels)
    torch.testing.assert_close(ratio, (1 - p_t) ** focal.gamma.item(), rtol=1e-11, atol=0)


@every_gamma
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


@every_gamma
def test_two_classes_are_the_binary_loss_of_the_difference(labels, gamma):
    """With d = z_1 - z_0: -s(-d)^gamma log s(d) for class 1, -s(d)^gamma log s(-d) for class 0; and its derivative."""
    logits = 4 * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits.requires_grad_()
    loss = FocalLoss(gamma, "none")
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
    assert (FocalLoss(high, "none")(logits, labels) < FocalLoss(low, "none")(logits, labels)).all()


@pytest.mark.parametrize("gamma", [0.001, 0.1, 1.0, 2.0, 5.0])
def test_it_is_cross_entropy_less_at_most_gamma_times_a_bound(logits, labels, probabilities, gamma):
    """0 <= CE - FL <= gamma |log(1 - p_t)| CE, from 1 - e^-x <= x; and for any target FL >= CE - gamma H(p)."""
    p = logits.softmax(dim=1)
    p_t = p[torch.arange(8), labels]
    cross_entropy = CrossEntropyLoss("none")(logits, labels)
    less = cross_entropy - FocalLoss(gamma, "none")(logits, labels)
    assert (less >= 0).all()
    assert (less <= gamma * -torch.log1p(-p_t) * cross_entropy + 1e-9).all()
    entropy = -(p * p.log()).sum(dim=1)
    for target in (labels, probabilities):
        less = CrossEntropyLoss("none")(logits, target) - FocalLoss(gamma, "none")(logits, target)
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
    factor = FocalLoss(gamma, "none")(logits, labels) / CrossEntropyLoss("none")(logits, labels)
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
    loss = FocalLoss(2.0, "none", class_weights=[1.0, 5.0])(torch.zeros(1, 2), torch.tensor([1]))
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
    of_soft = FocalLoss(2.0, "none")(logits, torch.tensor([0.9, 0.1]).expand(len(p), -1))
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
