import pytest
import torch
from scipy.stats import chisquare

from losslab.data.label_noise import label_noise


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
