import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses import DiceLoss

CLASSES = 5
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


# Inputs at which other libraries' dice losses fail.


@both_forms
def test_b15_one_class_of_ten_has_its_own_loss_not_a_tenth_of_it(squared):
    """Its image is at p = 0.1. smp and toolbelt divide by all classes, 0.082; MONAI counts absent ones as about 1."""
    expected = 1 - 2 * 0.1 / (1 + (0.01 if squared else 0.1))
    assert DiceLoss(squared)(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(expected)


@both_forms
def test_b5_it_is_an_overlap_of_each_class_not_one_minus_the_mean_probability(squared, logits, labels):
    """What MONAI's dice gives for (N, C), and kornia's by default: one set of all classes, half the absolute error."""
    micro = 1 - logits.softmax(dim=1).gather(1, labels[:, None]).mean()
    assert (DiceLoss(squared)(logits, labels) - micro).abs() > 0.01
