import itertools
import math

import pytest
import torch

from losslab.models import SeparableCNN
from losslab.models.separable_cnn import separable_convolution


def parameters_by_hand(widths, channels, side, classes):
    """Depthwise 3 * 3 a channel, pointwise C_in * C_out; batch norms 2 a channel; the linear layer with its bias."""
    separable = sum(9 * before + before * after for before, after in itertools.pairwise(widths))
    side //= 2 ** (len(widths) - 1)
    return 5 * 5 * channels * widths[0] + separable + 2 * sum(widths) + (side * side * widths[-1] + 1) * classes


@pytest.mark.parametrize("widths", [(16, 32, 64), (8,), (4, 5, 6, 7)], ids=str)
@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((3, 20, 20), 3)], ids=str)
def test_parameters_are_those_of_the_layers(widths, image_shape, classes):
    model = SeparableCNN(widths, num_classes=classes, image_shape=image_shape)
    expected = parameters_by_hand(widths, image_shape[0], image_shape[1], classes)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    ("widths", "image_shape", "classes"),
    [((4, 6, 8), (1, 28, 28), 10), ((4, 6, 8), (3, 20, 20), 3), ((4, 6), (1, 4, 5), 2), ((4,), (1, 2, 2), 2)],
    ids=str,
)
def test_it_gives_a_logit_for_each_image_and_class(widths, image_shape, classes):
    torch.manual_seed(0)
    logits = SeparableCNN(widths, num_classes=classes, image_shape=image_shape)(torch.randn(50, *image_shape))
    assert logits.shape == (50, classes)
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_a_separable_convolution_from_32_to_64_channels_has_2336_weights():
    layers = separable_convolution(32, 64)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 32 * 9 + 32 * 64 == 2336


def test_a_separable_convolution_is_an_ordinary_one_whose_kernel_is_a_product():
    torch.manual_seed(0)
    depthwise, pointwise = separable_convolution(3, 4)
    images = torch.randn(2, 3, 7, 6)
    kernel = pointwise.weight * depthwise.weight[:, 0]  # (4, 3, 1, 1) * (3, 3, 3)
    assert kernel.shape == (4, 3, 3, 3)
    ordinary = torch.nn.functional.conv2d(images, kernel, padding=1)
    torch.testing.assert_close(pointwise(depthwise(images)), ordinary)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    images = torch.randn(16, 1, 28, 28)
    model = SeparableCNN((4, 6, 8), dropout=0.5)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, r"widths must be >= 1 .* got \[\] and 0.1"),
        ({"widths": (16, 0)}, r"widths must be >= 1 .* got \[16, 0\] and 0.1"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got .* and 1.0"),
        ({"dropout": math.nan}, r"dropout in \[0, 1\), got .* and nan"),
        ({"image_shape": (1, 7, 28)}, r"3 widths need images of 8 pixels or more, got \(1, 7, 28\)"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SeparableCNN(**arguments)
