"""What holds for every loss that is a mean over images; `l(z, t)` is the loss of one image."""

import pytest
import torch
import torch.nn.functional as F
from loss_examples import Example
from torch import Tensor

from losslab.losses import CrossEntropyLoss, FocalLoss, PointwiseLoss

CLASSES = 5
WEIGHTS = torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0], dtype=torch.float64)
SMOOTHING = 0.125  # exact in float32, as the buffer that holds it

pytestmark = pytest.mark.takes("reduction", "class_weights", "label_smoothing", "ignore_index")
takes_probabilities = pytest.mark.takes("probability_targets")
both_weights = pytest.mark.parametrize("weights", [None, WEIGHTS.tolist()], ids=["plain", "weighted"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> Tensor:
    return (3 * random(6, CLASSES)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 1])


@pytest.fixture
def probabilities() -> Tensor:
    return random(6, CLASSES, seed=1).softmax(dim=1)


def assert_same(one: Tensor, other: Tensor, logits: Tensor) -> None:
    """The same value and gradient, to 1e-12."""
    gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (one, other)]
    torch.testing.assert_close((one, gradients[0]), (other, gradients[1]), rtol=1e-12, atol=1e-13)


# Targets


@takes_probabilities
@both_weights
def test_a_probability_target_is_an_expectation_over_labels(
    pointwise: Example, weights: list[float] | None, logits: Tensor, probabilities: Tensor
) -> None:
    loss = pointwise.make(CLASSES, reduction="none", class_weights=weights)
    of_labels = [loss(logits, torch.full((6,), k)) for k in range(CLASSES)]
    assert_same(loss(logits, probabilities), (probabilities * torch.stack(of_labels, dim=1)).sum(dim=1), logits)


@takes_probabilities
@both_weights
def test_smoothing_moves_its_share_of_the_target_to_all_classes(
    pointwise: Example, weights: list[float] | None, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    smooth = pointwise.make(CLASSES, reduction="none", class_weights=weights, label_smoothing=SMOOTHING)
    plain = pointwise.make(CLASSES, reduction="none", class_weights=weights)
    for target, shares in ((labels, F.one_hot(labels, CLASSES).double()), (probabilities, probabilities)):
        assert_same(smooth(logits, target), plain(logits, (1 - SMOOTHING) * shares + SMOOTHING / CLASSES), logits)


@takes_probabilities
def test_no_smoothing_is_the_label(pointwise_class: Example, logits: Tensor, labels: Tensor) -> None:
    plain, smooth = (pointwise_class.make(CLASSES, label_smoothing=e)(logits, labels) for e in (0.0, 2.0**-60))
    torch.testing.assert_close(smooth, plain, rtol=1e-12, atol=0)


class OfLabelsOnly(PointwiseLoss):
    """A user's loss that is not defined for every class at once."""

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return 1 - logits.softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1)


def test_without_a_loss_of_every_class_it_takes_labels_only(
    logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    assert OfLabelsOnly()(logits, labels).isfinite()
    for loss, target in ((OfLabelsOnly(), probabilities), (OfLabelsOnly(label_smoothing=SMOOTHING), labels)):
        with pytest.raises(ValueError, match=r"OfLabelsOnly takes integer labels only: .* need its per_class_as_label"):
            loss(logits, target)


@pytest.mark.parametrize("smoothing", [-0.125, 1.0, 2.0, float("nan")])
def test_smoothing_outside_0_to_1_is_refused(pointwise_class: Example, smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\), got {smoothing}"):
        pointwise_class.make(label_smoothing=smoothing)


# Reductions


def test_losses_of_images_do_not_depend_on_the_rest_of_the_batch(
    pointwise: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    policies = {**pointwise.all_policies(CLASSES), "reduction": "none"}
    loss = pointwise.make(CLASSES, **policies)
    for target in pointwise.targets(labels, probabilities):
        alone = torch.cat([loss(logits[i : i + 1], target[i : i + 1]) for i in range(6)])
        assert alone.shape == (6,)
        assert_same(loss(logits, target), alone, logits)


def test_reductions_are_those_of_the_images_losses(
    pointwise: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    for target in pointwise.targets(labels, probabilities):
        each, mean, total = (pointwise.make(CLASSES, reduction=r)(logits, target) for r in ("none", "mean", "sum"))
        assert each.shape == (6,)
        assert_same(mean, each.mean(), logits)
        assert_same(total, each.sum(), logits)


def test_the_mean_is_weighted_and_over_the_images_that_are_kept(
    pointwise: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    """sum_i w_i l_i / sum_i w_i: images of a class with twice the weight count twice."""
    policies = pointwise.all_policies(CLASSES)
    ignored = labels.index_fill(0, torch.tensor([1, 4]), -100)
    weights_of_ignored = WEIGHTS[labels].index_fill(0, torch.tensor([1, 4]), 0)
    for target, image_weights in (
        (labels, WEIGHTS[labels]),
        (ignored, weights_of_ignored),
        (probabilities, probabilities @ WEIGHTS),
    )[: 2 + pointwise.takes("probability_targets")]:
        each, mean = (pointwise.make(CLASSES, **policies, reduction=r)(logits, target) for r in ("none", "mean"))
        assert_same(mean, each.sum() / image_weights.sum(), logits)


# Inputs at which other libraries fail


def test_b4_the_sum_is_the_sum_of_the_images(pointwise: Example, logits: Tensor, labels: Tensor) -> None:
    """MONAI's focal gives the mean."""
    total, mean = (pointwise.make(CLASSES, reduction=r)(logits, labels) for r in ("sum", "mean"))
    torch.testing.assert_close(total, 6 * mean, rtol=1e-12, atol=0)


def test_b12_a_sum_is_a_scalar(pointwise: Example, logits: Tensor, labels: Tensor) -> None:
    """timm's single-label loss gives a vector."""
    assert pointwise.make(CLASSES, reduction="sum")(logits, labels).shape == ()


def test_b18_the_mean_is_over_images_not_over_images_and_classes(logits: Tensor, labels: Tensor) -> None:
    """kornia's focal of gamma 0 is cross-entropy / C."""
    torch.testing.assert_close(FocalLoss(0.0)(logits, labels), F.cross_entropy(logits, labels), rtol=1e-12, atol=0)


@takes_probabilities
def test_b20_a_soft_target_means_what_labels_drawn_from_it_mean(pointwise: Example) -> None:
    """1000 images of one place, 900 of class 1: the gradient of the target 0.9. Others modulate by |y - p| instead."""
    at = torch.tensor([[0.25, -0.5]]).double().requires_grad_()
    drawn = torch.tensor([1] * 900 + [0] * 100)
    loss = pointwise.make(2)
    assert_same(loss(at, torch.tensor([[0.1, 0.9]], dtype=torch.float64)), loss(at.expand(1000, -1), drawn), at)


def test_b22_a_batch_of_ignored_images_has_loss_0_and_not_nan(pointwise: Example, logits: Tensor) -> None:
    """torch's cross-entropy has NaN there."""
    ignored = torch.full((6,), -100)
    assert F.cross_entropy(logits, ignored).isnan()
    for reduction in ("mean", "sum"):
        assert pointwise.make(CLASSES, reduction=reduction, ignore_index=-100)(logits, ignored) == 0


def test_b23_a_batch_of_ignored_images_can_be_trained_on(pointwise: Example) -> None:
    """A constant without a graph, as AdeelH's focal returns, cannot: backward raises."""
    layer = torch.nn.Linear(3, CLASSES)
    pointwise.make(CLASSES, ignore_index=-100)(layer(torch.ones(4, 3)), torch.full((4,), -100)).backward()
    assert (layer.weight.grad == 0).all()


def test_b24_the_input_is_logits_and_no_weight_is_hidden_in_the_defaults(logits: Tensor, labels: Tensor) -> None:
    """Keras expects probabilities by default and multiplies by alpha = 0.25, which for many classes only rescales."""
    for loss in (CrossEntropyLoss(), FocalLoss(gamma=0.0)):
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels), rtol=1e-12, atol=0)
        assert loss(logits, labels) != loss(logits.softmax(dim=1), labels)
