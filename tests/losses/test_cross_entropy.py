import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses import CrossEntropyLoss

WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.0)


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 1])


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient is that of a sum with unequal parts, so that every entry of reduction="none" counts."""
    return loss, torch.autograd.grad((loss * torch.arange(1.0, 1 + loss.numel()).reshape(loss.shape)).sum(), logits)[0]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_is_torchs_in_value_and_gradient(logits, labels, weights, smoothing, reduction):
    loss = CrossEntropyLoss(reduction, weights, smoothing)(logits, labels)
    torch_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    torchs = F.cross_entropy(logits, labels, torch_weights, reduction=reduction, label_smoothing=smoothing)
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(torchs, logits), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.125])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_is_torchs_for_probability_targets(logits, smoothing, reduction):
    target = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    loss = CrossEntropyLoss(reduction, label_smoothing=smoothing)(logits, target)
    torchs = F.cross_entropy(logits, target, reduction=reduction, label_smoothing=smoothing)
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(torchs, logits), rtol=1e-12, atol=1e-14
    )


def test_its_gradient_is_probability_minus_target(logits, labels):
    (gradient,) = torch.autograd.grad(CrossEntropyLoss("sum")(logits, labels), logits)
    torch.testing.assert_close(gradient, logits.softmax(dim=1) - F.one_hot(labels, 5), rtol=0, atol=1e-15)


def test_at_a_fitted_bias_predicted_and_true_counts_agree_for_each_class(labels):
    """The stationarity of a bias: sum_i p_ik = sum_i t_ik, so soft precision equals soft recall."""
    bias = (torch.bincount(labels) / len(labels)).log().requires_grad_()
    (gradient,) = torch.autograd.grad(CrossEntropyLoss()(bias.expand(len(labels), -1), labels), bias)
    torch.testing.assert_close(gradient, torch.zeros(5))


@pytest.mark.parametrize("margin", [8.0, 17.0, 20.0, 104.0, 6e4])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_b9_a_hopeless_image_is_still_corrected(margin, smoothing):
    logits = torch.tensor([[-margin, 0.0, -margin]], requires_grad=True)
    (gradient,) = torch.autograd.grad(CrossEntropyLoss(label_smoothing=smoothing)(logits, torch.tensor([0])), logits)
    assert gradient[0, 0] <= -0.99 * (1 - smoothing)
    assert gradient[0, 1] >= 0.99 * (1 - smoothing)


def test_two_classes_are_the_binary_loss_of_the_difference(labels):
    """-log s(d) for class 1 and -log s(-d) for class 0, d = z_1 - z_0."""
    logits = 5 * torch.randn(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels, d = labels % 2, logits[:, 1] - logits[:, 0]
    torch.testing.assert_close(
        CrossEntropyLoss("none")(logits, labels),
        F.binary_cross_entropy_with_logits(d, labels.double(), reduction="none"),
        rtol=1e-12,
        atol=1e-15,
    )


def test_perfect_predictions_cost_nothing_and_the_loss_has_no_upper_bound():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert CrossEntropyLoss()(logits, torch.tensor([0, 1])) == 0
    assert CrossEntropyLoss()(logits, torch.tensor([1, 0])) == 1000
