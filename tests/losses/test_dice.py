import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses import DiceLoss

CLASSES = 5
BIG = 1e4
both_forms = pytest.mark.parametrize("squared", [False, True])


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


def dice_by_hand(p: Tensor, y: Tensor, squared: bool) -> list[float]:
    """1 - D_c of every class that occurs, one class and one image at a time."""
    power = 2 if squared else 1
    losses = []
    for c in range(p.shape[1]):
        overlap = sum(float(p[i, c]) * float(y[i, c]) for i in range(len(p)))
        size = sum(float(p[i, c]) ** power + float(y[i, c]) ** power for i in range(len(p)))
        if y[:, c].sum() > 0:
            losses.append(1 - 2 * overlap / size)
    return losses


@both_forms
def test_it_is_the_mean_over_the_classes_in_the_batch(squared, logits, labels, probabilities):
    p = logits.detach().softmax(dim=1)
    for target, y in ((labels, F.one_hot(labels, CLASSES)), (probabilities, probabilities)):
        by_hand = dice_by_hand(p, y, squared)
        assert len(by_hand) == (4 if target is labels else 5)
        assert DiceLoss(squared)(logits, target).item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-12)


@both_forms
@pytest.mark.parametrize("images", [1, 10, 200])
def test_perfect_predictions_cost_nothing_and_the_opposite_costs_1(squared, images):
    labels = torch.arange(images) % CLASSES
    perfect = BIG * F.one_hot(labels, CLASSES).float()
    assert DiceLoss(squared)(perfect, labels) == 0
    assert DiceLoss(squared)(perfect, (labels + 1) % CLASSES) == 1


@both_forms
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
def test_it_is_in_0_to_1(squared, scale, probabilities):
    for seed in range(20):
        logits = scale * random(8, CLASSES, seed=seed)
        for target in (torch.arange(8) * (seed + 1) % CLASSES, probabilities):
            each = DiceLoss(squared, "none")(logits, target)
            assert ((each >= 0) & (each <= 1)).all()
            assert 0 <= DiceLoss(squared)(logits, target) <= 1


@both_forms
def test_its_gradient_is_the_closed_form(squared, logits, labels, probabilities):
    """G = dL/dp_ic = -(2 y - D_c) / (S_c m), or -2 (y - D_c p) / (S_c m); dL/dz = p (G - sum_c G p)."""
    for target, y in ((labels, F.one_hot(labels, CLASSES).double()), (probabilities, probabilities)):
        p = logits.detach().softmax(dim=1)
        present = (y.sum(dim=0) > 0).double()
        size = (p**2 + y**2 if squared else p + y).sum(dim=0)
        dice = 2 * (p * y).sum(dim=0) / size
        of_p = -(2 * y - 2 * dice * p if squared else 2 * y - dice) / size * present / present.sum()
        expected = p * (of_p - (of_p * p).sum(dim=1, keepdim=True))
        (actual,) = torch.autograd.grad(DiceLoss(squared)(logits, target), logits)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


@both_forms
def test_first_and_second_derivatives_are_those_of_the_values(squared, logits, labels, probabilities):
    for target in (labels, probabilities):
        loss = DiceLoss(squared, class_weights=[1, 2, 0.5, 0, 3])
        assert torch.autograd.gradcheck(lambda z, t=target, loss=loss: loss(z, t), logits)
        assert torch.autograd.gradgradcheck(lambda z, t=target, loss=loss: loss(z, t), logits)


def test_one_sure_image_has_the_exams_gradient():
    """For one image of class 0 and D = 2y / (y + 1): dL/dz_0 = (y - 1) / (2y) * (1 - L)^2, y = p_0."""
    logits = torch.tensor([[-0.7, 0.0]], dtype=torch.float64, requires_grad=True)
    y = float(logits[0, 0].detach().sigmoid())
    loss = DiceLoss(reduction="none")(logits, torch.tensor([0]))[0]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 0].item() == pytest.approx((y - 1) / (2 * y) * (1 - loss.item()) ** 2)
    assert gradient[0, 0].item() == pytest.approx(-2 * y * (1 - y) / (1 + y) ** 2)


def test_near_a_random_start_its_gradient_is_about_c_times_smaller_than_cross_entropys():
    logits = torch.zeros(100, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(100) % 10
    (dice,) = torch.autograd.grad(DiceLoss()(logits, labels), logits)
    (cross_entropy,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    assert (dice / cross_entropy)[0, 0].item() == pytest.approx(0.1, rel=0.05)


@both_forms
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 4.0, 3.0]])
def test_reductions_are_over_the_classes_in_the_batch(squared, weights, logits, labels):
    each, total, mean = (DiceLoss(squared, r, weights)(logits, labels) for r in ("none", "sum", "mean"))
    assert each.shape == (CLASSES,)
    assert each[4] == 0
    assert (each[:4] > 0).all()
    torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, each.sum() / sum((weights or [1.0] * CLASSES)[:4]), rtol=1e-12, atol=0)


@both_forms
def test_a_class_weight_multiplies_its_classs_loss(squared, logits, labels):
    weights = [1.0, 2.0, 0.5, 0.0, 3.0]
    plain, weighted = (DiceLoss(squared, "none", w)(logits, labels) for w in (None, weights))
    torch.testing.assert_close(weighted, plain * torch.tensor(weights), rtol=1e-12, atol=0)


@both_forms
def test_an_absent_class_pulls_at_nothing_and_gives_no_nan(squared, labels):
    """Its probability is exactly 0 here, and so is the denominator of its D."""
    logits = torch.zeros(8, CLASSES)
    logits[:, 4] = -BIG
    logits.requires_grad_()
    loss = DiceLoss(squared)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    assert (gradient[:, 4] == 0).all()
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    torch.testing.assert_close(loss, DiceLoss(squared)(logits[:, :4], labels))


@both_forms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_extreme_logits_give_finite_loss_gradient_and_second_derivative(squared, dtype):
    for margin in (8, 17, 20, 37, 50, 89, 104, 1e3, 1e4, 6e4):
        for sign in (1, -1):
            logits = torch.zeros(6, 3, dtype=dtype)
            logits[torch.arange(6), torch.arange(6) % 3] = sign * margin
            logits.requires_grad_()
            loss = DiceLoss(squared)(logits, torch.arange(6) % 3)
            (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), logits)
            assert loss.item() == pytest.approx(0.0 if sign > 0 else 1.0, abs=2e-3)
            assert gradient.isfinite().all()
            assert second.isfinite().all()


@both_forms
def test_the_order_of_classes_and_images_and_a_shift_of_the_logits_are_no_matter(squared, logits, labels):
    classes, images = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 7, 0, 1, 4, 3, 6])
    loss = DiceLoss(squared)
    moved = loss(logits[images][:, classes] + 500, classes.argsort()[labels[images]])
    torch.testing.assert_close(moved, loss(logits, labels), rtol=1e-12, atol=1e-13)


# Inputs at which other libraries' dice losses fail.


@both_forms
@pytest.mark.parametrize("images", [10, 50, 200])
def test_b14_perfect_predictions_cost_nothing_whatever_the_batchs_size(squared, images):
    """A numerator per image over a denominator per batch gave 9.0, 9.8 and 9.95 instead."""
    labels = torch.arange(images) % 10
    assert DiceLoss(squared, "sum")(BIG * F.one_hot(labels, 10).float(), labels) == 0


def test_b14_the_gradient_does_not_vanish_with_the_batchs_size():
    """At z = 0, summed over the batch: the same for 10 and for 200 images."""
    sums = []
    for images in (10, 200):
        logits = torch.zeros(images, 10, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(DiceLoss()(logits, torch.arange(images) % 10), logits)
        sums.append(gradient.abs().sum().item())
    assert sums[0] == pytest.approx(sums[1])


@both_forms
def test_b15_the_scale_does_not_depend_on_how_many_classes_occur(squared):
    """10 classes, one in the batch, its image at p = 0.1: dividing by all classes gave a tenth of it."""
    expected = 1 - 2 * 0.1 / (1 + (0.01 if squared else 0.1))
    assert DiceLoss(squared)(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(expected)


@both_forms
def test_b16_half_logits_of_140000_numbers_do_not_overflow(squared):
    logits = torch.zeros(70_000, 2, dtype=torch.float16, requires_grad=True)
    labels = torch.arange(70_000) % 2
    loss = DiceLoss(squared)(logits, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 / 3 if squared else 0.5, rel=1e-5)
    assert logits.grad.isfinite().all()
