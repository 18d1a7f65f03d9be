"""The threshold of the highest expected F1."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from losslab.losses import DiceLoss, dice_threshold


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
