from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.model_selection import train_test_split

from losslab.data import label_noise, long_tail, validation_split


def labels_with(counts: list[int]) -> torch.Tensor:
    """Labels of so many images of each class, in a mixed order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("balanced", [True, False])
def test_a_validation_split_is_the_one_that_scikit_learn_draws(balanced):
    """Earlier versions drew it so, and recorded its hash."""
    sizes = np.random.default_rng(0)
    for seed in (*range(40), 2**32 - 1):
        classes = int(sizes.integers(2, 12))
        counts = [int(sizes.integers(2, 40))] * classes if balanced else sizes.integers(2, 60, classes).tolist()
        labels, total = labels_with(counts), sum(counts)
        val_size = int(sizes.integers(classes, total - classes + 1))
        drawn = train_test_split(np.arange(total), test_size=val_size, stratify=labels.numpy(), random_state=seed)
        split = validation_split(labels, tuple(map(str, range(classes))), val_size, seed, "digits")
        for own, theirs in zip(split, drawn, strict=True):
            assert (own.dtype, own.tolist()) == (torch.int64, sorted(theirs))


@pytest.mark.parametrize("imbalance", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_class_sizes_fall_exponentially_from_largest_to_smallest(num_classes, imbalance):
    labels = labels_with([1000 + 10 * c for c in range(num_classes)])
    kept = long_tail(labels, num_classes, imbalance, list(range(num_classes)), seed=0)
    sizes = torch.bincount(labels[kept], minlength=num_classes).tolist()
    assert sizes == [round(1000 * imbalance ** (r / (num_classes - 1))) for r in range(num_classes)]
    assert sizes[-1] / sizes[0] == pytest.approx(imbalance)
    if num_classes > 2:
        ratio = imbalance ** (1 / (num_classes - 1))
        assert all(after / before == pytest.approx(ratio, rel=0.05) for before, after in pairwise(sizes))


def test_imbalance_1_makes_every_class_as_large_as_the_smallest():
    labels = labels_with([30, 20, 25])
    kept = long_tail(labels, 3, 1.0, [0, 1, 2], seed=0)
    assert torch.bincount(labels[kept]).tolist() == [20, 20, 20]


def test_imbalance_1_keeps_every_image_of_balanced_classes():
    assert long_tail(labels_with([20, 20]), 2, 1.0, [1, 0], seed=0).tolist() == list(range(40))


def test_ranks_say_which_class_has_which_size_and_never_the_total():
    labels = labels_with([100, 130, 170])
    for ranks in permutations(range(3)):
        kept = long_tail(labels, 3, 0.04, list(ranks), seed=0)
        assert torch.bincount(labels[kept]).tolist() == [[100, 20, 4][rank] for rank in ranks]


def test_no_class_is_ever_emptied():
    labels = labels_with([10, 10, 10])
    assert torch.bincount(labels[long_tail(labels, 3, 0.001, [0, 1, 2], seed=0)]).tolist() == [10, 1, 1]


def test_kept_images_are_ascending_positions_each_once_and_the_seed_chooses_them():
    labels = labels_with([100, 100, 100])
    before = labels.clone()
    kept = [long_tail(labels, 3, 0.1, [0, 1, 2], seed) for seed in (5, 5, 6)]
    assert all(index.dtype == torch.int64 and (index.diff() > 0).all() for index in kept)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    assert torch.equal(labels, before)


def test_every_image_of_a_class_has_the_same_chance_to_stay():
    labels = torch.arange(40) % 2
    stays = torch.zeros(40)
    for seed in range(400):
        stays[long_tail(labels, 2, 0.25, [0, 1], seed)] += 1
    assert (stays[0::2] == 400).all()  # class 0 is the largest and keeps all its 20
    # Class 1 keeps 5 of 20: binomial(400, 1/4), mean 100, standard deviation 8.7.
    assert (stays[1::2] - 100).abs().max() < 4.5 * 8.7


def drawn(what: str, seed: int) -> torch.Tensor:
    """Which of 200 images of two classes a draw with this seed takes: (200,) float."""
    labels, taken = torch.arange(200) % 2, torch.zeros(200)
    match what:
        case "split":
            taken[validation_split(labels, ("a", "b"), 60, seed, "digits")[1]] = 1
        case "tail" | "validation's tail":
            taken[long_tail(labels, 2, 0.25, [0, 1], seed, of_validation=what != "tail")] = 1
        case _:
            taken = (label_noise(labels, 2, 0.3, seed, of_validation=what != "noise") != labels).float()
    return taken[1::2]  # the class that a tail makes small


@pytest.mark.parametrize(
    "pair", [*combinations(["split", "tail", "validation's tail", "noise", "validation's noise"], 2)], ids=" and ".join
)
def test_draws_of_one_seed_are_independent(pair):
    """Over 100 seeds and 100 images, a correlation of independent draws has a standard deviation of 0.01."""
    one, other = (torch.stack([drawn(what, seed) for seed in range(100)]) for what in pair)
    both = torch.stack([one.flatten(), other.flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.045


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.4, 0.999])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_exactly_the_fraction_of_labels_becomes_another_class(num_classes, fraction):
    labels = torch.arange(1234) % num_classes
    noisy = label_noise(labels, num_classes, fraction, seed=0)
    assert int((noisy != labels).sum()) == round(fraction * 1234)
    assert (noisy.dtype, noisy.shape) == (torch.int64, labels.shape)
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < num_classes


def test_fraction_0_changes_nothing():
    labels = torch.arange(100) % 10
    assert torch.equal(label_noise(labels, 10, 0.0, seed=0), labels)


def test_too_small_a_fraction_for_one_image_changes_nothing():
    labels = torch.arange(10)
    assert torch.equal(label_noise(labels, 10, 0.04, seed=0), labels)


def test_the_labels_given_are_left_as_they_are():
    labels = torch.arange(100) % 10
    label_noise(labels, 10, 0.5, seed=0)
    assert torch.equal(labels, torch.arange(100) % 10)


def test_every_other_class_is_equally_likely_from_every_class():
    labels = torch.arange(20_000) % 5
    noisy = label_noise(labels, 5, 0.5, seed=0)
    table = torch.bincount(5 * labels + noisy, minlength=25).reshape(5, 5)
    became_another = table[~torch.eye(5, dtype=torch.bool)]
    assert int(became_another.sum()) == 10_000
    assert chisquare(became_another.numpy()).pvalue > 0.001


def test_every_image_is_equally_likely_to_be_wrong():
    labels = torch.zeros(50, dtype=torch.int64)
    wrong = sum((label_noise(labels, 3, 0.2, seed) != 0).int() for seed in range(400))
    # Binomial(400, 1/5): mean 80, standard deviation 8.
    assert (wrong - 80).abs().max() < 4.5 * 8


def test_the_seed_decides_which_labels_are_wrong():
    labels = torch.arange(200) % 10
    same, again, other = (label_noise(labels, 10, 0.3, seed) for seed in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
