import pytest
import torch

from losslab.models import ResNet
from losslab.models.resnet import ResidualBlock


def parameters_by_hand(widths, blocks, channels, classes):
    """Convolutions k * k * C_in * C_out without bias, each with a batch norm of 2 a channel; then a linear layer."""
    total = 5 * 5 * channels * widths[0] + 2 * widths[0]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            total += 9 * before * width + 2 * width + 9 * width * width + 2 * width
            if before != width or (stage > 0 and block == 0):
                total += before * width + 2 * width  # the shortcut
            before = width
    return total + (before + 1) * classes


@pytest.mark.parametrize("widths", [(16, 32, 64), (8,), (6, 6)], ids=str)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((3, 20, 20), 3)], ids=str)
def test_parameters_are_those_of_the_layers(widths, blocks, image_shape, classes):
    model = ResNet(widths, blocks, num_classes=classes, image_shape=image_shape)
    assert sum(p.numel() for p in model.parameters()) == parameters_by_hand(widths, blocks, image_shape[0], classes)


@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((3, 20, 20), 3), ((1, 9, 2), 2)], ids=str)
def test_it_gives_a_logit_for_each_image_and_class(image_shape, classes):
    torch.manual_seed(0)
    logits = ResNet((4, 6, 8), num_classes=classes, image_shape=image_shape)(torch.randn(50, *image_shape))
    assert logits.shape == (50, classes)
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_images_shrink_as_documented():
    """28 to 14, 7 and 4, before they are pooled to 1."""
    sides, images = [], torch.zeros(1, 1, 28, 28)
    for layer in ResNet((4, 6, 8), blocks=2).eval().network:
        images = layer(images)
        if images.ndim == 4 and images.shape[-1] not in sides:
            sides.append(images.shape[-1])
    assert sides == [28, 14, 7, 4, 1]


@pytest.mark.parametrize(("channels_out", "stride"), [(4, 1), (6, 1), (4, 2), (6, 2)])
def test_a_block_adds_its_residual_to_its_input(channels_out, stride):
    """With the residual at 0, what is left is the positive part of the input, or of its 1 x 1 convolution."""
    torch.manual_seed(0)
    block, images = ResidualBlock(4, channels_out, stride).eval(), torch.randn(2, 4, 8, 8)
    assert not torch.allclose(block(images), torch.relu(block.shortcut(images)))
    with torch.no_grad():
        block.residual[-1].weight.zero_()
    torch.testing.assert_close(block(images), torch.relu(block.shortcut(images)))
    assert block(images).shape == (2, channels_out, 8 // stride, 8 // stride)
    if channels_out == 4 and stride == 1:
        torch.testing.assert_close(block(images), torch.relu(images))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    images = torch.randn(16, 1, 28, 28)
    model = ResNet((4, 6, 8), dropout=0.5)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"widths": ()}, r"\[\], 1 and 0.0"),
        ({"widths": (16, 0)}, r"\[16, 0\], 1 and 0.0"),
        ({"blocks": 0}, r"\[16, 32, 64\], 0 and 0.0"),
        ({"dropout": 1.0}, r"\[16, 32, 64\], 1 and 1.0"),
        ({"dropout": -0.1}, r"\[16, 32, 64\], 1 and -0.1"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, got):
    with pytest.raises(ValueError, match=rf"widths and blocks must be >= 1 and dropout in \[0, 1\), got {got}"):
        ResNet(**arguments)
