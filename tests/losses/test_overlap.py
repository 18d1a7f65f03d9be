"""What holds for every loss that compares predicted and true sets of a class over the batch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from loss_examples import Example
from torch import Tensor

from losslab.losses import DiceLoss, TverskyLoss, dice_threshold

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


both_forms = pytest.mark.parametrize("squared", [False, True])


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


def etas(seed: int, images: int = 9) -> Tensor:
    """Calibrated probabilities, from rare to frequent classes."""
    power = 1 + seed % 4
    return torch.rand(images, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** power


@pytest.mark.parametrize("seed", range(8))
def test_no_set_of_images_has_a_higher_expected_dice(seed: int) -> None:
    """Over all 511 sets: 2 sum_{i in S} eta_i / (|S| + sum_i eta_i)."""
    eta = etas(seed)
    best, best_set = max(
        (2 * eta[list(chosen)].sum().item() / (len(chosen) + eta.sum().item()), chosen)
        for size in range(1, 10)
        for chosen in itertools.combinations(range(9), size)
    )
    found = dice_threshold(eta)
    assert found.dice == pytest.approx(best, rel=1e-12)
    assert found.threshold == pytest.approx(best / 2, rel=1e-12)
    assert (eta > found.threshold).nonzero().flatten().tolist() == sorted(best_set)


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_dice_switches_from_0_to_1_at_it(seed: int) -> None:
    """A free probability for each of nine bins, fitted to their soft targets: one-vs-rest, so class 1's dice alone."""
    eta = etas(seed)
    threshold, dice = dice_threshold(eta)
    target = torch.stack([1 - eta, eta], dim=1)
    logits = torch.zeros(9, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        loss = DiceLoss(reduction="none")(logits, target)[1]
        (logits.grad,) = torch.autograd.grad(loss, logits)
        optimizer.step()
    p = logits.detach().softmax(1)[:, 1]
    clear = (eta - threshold).abs() > 0.01
    assert torch.equal(p[clear] > 0.5, eta[clear] > threshold)
    assert 1 - loss.item() == pytest.approx(dice, abs=5e-3)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_above_one_half(seed: int) -> None:
    found = dice_threshold(etas(seed, images=1 + 10 * seed))
    assert 0 < found.threshold <= 0.5
    assert 0 < found.dice <= 1


def test_sure_labels_have_dice_1_and_the_threshold_one_half() -> None:
    assert dice_threshold(torch.tensor([1.0, 0.0, 1.0, 0.0])) == (0.5, 1.0)


def test_equal_probabilities_are_all_predicted() -> None:
    """2 n eta / (n + n eta) with all of them, more than with fewer."""
    found = dice_threshold(torch.full((100,), 0.2))
    assert found.dice == pytest.approx(0.4 / 1.2, rel=1e-6)
    assert found.threshold < 0.2


def test_order_and_dtype_are_no_matter() -> None:
    eta = etas(3)
    assert dice_threshold(eta.flip(0)) == dice_threshold(eta)
    assert dice_threshold(eta.float()).dice == pytest.approx(dice_threshold(eta).dice, rel=1e-6)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3), torch.tensor([0.5, 1.5]), torch.tensor([0.5, -0.1]), torch.tensor([0.5, math.nan])],
    ids=["all 0", "above 1", "below 0", "nan"],
)
def test_what_is_no_probability_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\] and not all 0, got"):
        dice_threshold(bad)


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 2), torch.zeros(0), torch.ones(2, dtype=torch.int64)], ids=["2-d", "empty", "integers"]
)
def test_a_wrong_shape_or_dtype_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"probability must be \(N,\) floating, got"):
        dice_threshold(bad)


LOGITS = 2 * torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(30) % 3  # class 3 is absent


def gradient(loss: torch.nn.Module) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, LABELS), logits)[0]


def test_one_half_each_is_dice() -> None:
    torch.testing.assert_close(TverskyLoss(0.5, 0.5)(LOGITS, LABELS), DiceLoss()(LOGITS, LABELS))
    torch.testing.assert_close(gradient(TverskyLoss(0.5, 0.5)), gradient(DiceLoss()))


def test_1_each_is_the_soft_jaccard_index() -> None:
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    overlap = (p * y).sum(0)
    jaccard = overlap / (p.sum(0) + y.sum(0) - overlap)
    torch.testing.assert_close(TverskyLoss(1, 1)(LOGITS, LABELS), 1 - jaccard[:3].mean())


def test_only_false_positives_is_precision_and_only_false_negatives_recall() -> None:
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    overlap = (p * y).sum(0)
    torch.testing.assert_close(TverskyLoss(1, 0)(LOGITS, LABELS), 1 - (overlap / p.sum(0))[:3].mean())
    torch.testing.assert_close(TverskyLoss(0, 1)(LOGITS, LABELS), 1 - (overlap / y.sum(0))[:3].mean())


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.7, 0.3), (1, 0), (0, 1), (2, 3)])
def test_tverskys_gradient_is_the_closed_form(alpha: float, beta: float) -> None:
    """dl/dp = -(y - T (alpha + (1 - alpha - beta) y)) / (m S), T = TP / S; dl/dz = p (dl/dp - sum_c p dl/dp)."""
    loss = TverskyLoss(alpha, beta)
    alpha, beta = loss.alpha.item(), loss.beta.item()  # as float32 holds them
    p, y = LOGITS.softmax(1), F.one_hot(LABELS, 4).double()
    tp = (p * y).sum(0)
    size = tp + alpha * (p * (1 - y)).sum(0) + beta * ((1 - p) * y).sum(0)
    of_p = -(y - tp / size * (alpha + (1 - alpha - beta) * y)) / (3 * size)
    of_p[:, 3] = 0
    torch.testing.assert_close(gradient(loss), p * (of_p - (of_p * p).sum(1, keepdim=True)), rtol=0, atol=1e-14)


def test_a_larger_alpha_predicts_less_and_a_larger_beta_more() -> None:
    """The gradient in the bias of class 0, of images that are half of class 0, all at p = 1/2."""
    pulls = []
    for alpha, beta in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2)):
        bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        loss = TverskyLoss(alpha, beta, reduction="none")(bias.expand(4, -1), torch.tensor([0, 0, 1, 1]))[0]
        pulls.append(torch.autograd.grad(loss, bias)[0][0].item())
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[2]


@pytest.mark.parametrize(("alpha", "beta"), [(-0.1, 1), (1, -0.1), (0, 0), (math.nan, 1), (1, math.inf)])
def test_weights_out_of_range_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="alpha and beta must be >= 0, finite and not both 0, got"):
        TverskyLoss(alpha, beta)
