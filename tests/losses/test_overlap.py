"""What holds for every loss that compares predicted and true sets of a class over the batch."""

import pytest
import torch
import torch.nn.functional as F
from loss_examples import Example
from torch import Tensor

CLASSES = 5
BIG = 1e4

pytestmark = pytest.mark.takes("reduction", "class_weights")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> Tensor:
    return (2 * random(8, CLASSES)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    """Class 4 is absent."""
    return torch.tensor([0, 1, 2, 3, 3, 0, 1, 0])


@pytest.fixture
def probabilities() -> Tensor:
    return random(8, CLASSES, seed=1).softmax(dim=1)


def test_perfect_predictions_cost_nothing_whatever_the_batchs_size(overlap: Example) -> None:
    for images in (1, 10, 200):
        labels = torch.arange(images) % CLASSES
        assert overlap.make(CLASSES)(BIG * F.one_hot(labels, CLASSES).float(), labels) == 0


def test_predicting_every_class_for_the_images_of_another_costs_1(overlap: Example) -> None:
    labels = torch.arange(10) % CLASSES
    assert overlap.make(CLASSES)(BIG * F.one_hot((labels + 1) % CLASSES, CLASSES).float(), labels) == 1


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
def test_it_is_in_0_to_1(overlap: Example, scale: float, probabilities: Tensor) -> None:
    each, mean = overlap.make(CLASSES, reduction="none"), overlap.make(CLASSES)
    for seed in range(10):
        logits = scale * random(8, CLASSES, seed=seed)
        for target in (torch.arange(8) * (seed + 1) % CLASSES, probabilities):
            assert ((each(logits, target) >= 0) & (each(logits, target) <= 1)).all()
            assert 0 <= mean(logits, target) <= 1


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 4.0, 3.0]], ids=["plain", "weighted"])
def test_reductions_are_over_the_classes_in_the_batch(
    overlap: Example, weights: list[float] | None, logits: Tensor, labels: Tensor
) -> None:
    each, total, mean = (
        overlap.make(CLASSES, reduction=r, class_weights=weights)(logits, labels) for r in ("none", "sum", "mean")
    )
    assert each.shape == (CLASSES,)
    assert each[4] == 0
    assert (each[:4] > 0).all()
    torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, each.sum() / sum((weights or [1.0] * CLASSES)[:4]), rtol=1e-12, atol=0)


def test_a_class_weight_multiplies_its_classs_loss(overlap: Example, logits: Tensor, labels: Tensor) -> None:
    weights = [1.0, 2.0, 0.5, 0.0, 3.0]
    plain, weighted = (
        overlap.make(CLASSES, reduction="none", class_weights=w)(logits, labels) for w in (None, weights)
    )
    torch.testing.assert_close(weighted, plain * torch.tensor(weights), rtol=1e-12, atol=0)


def test_a_class_without_probability_and_images_pulls_at_nothing(overlap: Example, labels: Tensor) -> None:
    """Its numerator and denominator are exactly 0."""
    logits = torch.zeros(8, CLASSES)
    logits[:, 4] = -BIG
    logits.requires_grad_()
    loss = overlap.make(CLASSES)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert (gradient[:, 4] == 0).all()
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    torch.testing.assert_close(loss, overlap.make(4)(logits[:, :4], labels))


@pytest.mark.parametrize("margin", [40.0, 80.0, 89.0, 95.0, 104.0])
def test_a_class_whose_probability_all_but_vanishes_has_finite_derivatives(overlap: Example, margin: float) -> None:
    """1 over a sum of probabilities below 1e-38 overflows: soft precision, Tversky with beta = 0, divides by it."""
    logits = torch.zeros(8, 3)
    logits[:, 0] = -margin
    logits.requires_grad_()
    loss = overlap.make()(logits, torch.tensor([0, 0, 1, 2, 0, 1, 2, 0]))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert 0 <= loss <= 1
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 1
    assert second.isfinite().all()


def test_b14_perfect_predictions_cost_nothing_and_the_gradient_does_not_vanish_with_the_batch(overlap: Example) -> None:
    """ShannonAI's dice: 9.0 to 9.95 for perfect predictions, and at z = 0 a gradient that falls with the batch's size.

    Its numerator is an image's, its denominator the batch's.
    """
    sums = []
    for images in (10, 50, 200):
        labels = torch.arange(images) % 10
        assert overlap.make(10, reduction="sum")(BIG * F.one_hot(labels, 10).float(), labels) == 0
        logits = torch.zeros(images, 10, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(overlap.make(10)(logits, labels), logits)
        sums.append(gradient.abs().sum().item())
    assert sums == pytest.approx([sums[0]] * 3)
    assert sums[0] > 0.01


def test_b15_the_scale_does_not_depend_on_how_many_classes_occur(overlap: Example) -> None:
    """smp, toolbelt: absent classes are 0 in a mean over all classes, so that one of ten has a tenth of its loss."""
    labels = torch.tensor([3, 3, 3, 7])
    logits = random(4, 10)
    each = overlap.make(10, reduction="none")(logits, labels)
    torch.testing.assert_close(overlap.make(10)(logits, labels), (each[3] + each[7]) / 2, rtol=1e-12, atol=0)
    assert each[3] > 0


def test_b16_half_logits_of_140000_numbers_do_not_overflow(overlap: Example) -> None:
    """NaN or 1.0 in libraries that sum in float16."""
    logits = torch.zeros(70_000, 2, dtype=torch.float16, requires_grad=True)
    labels = torch.arange(70_000) % 2
    loss = overlap.make(2)(logits, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    wide = overlap.make(2)(logits.detach().double(), labels)
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=0)
    assert 0.1 < loss < 0.9
    assert logits.grad.isfinite().all()
