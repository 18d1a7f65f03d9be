import pytest
import torch

from losslab.models import CNN


def parameters_by_hand(widths, channels, side, classes):
    """Convolutions k * k * C_in * C_out without bias, batch norms 2 a channel, and the linear layer with its bias."""
    a, b, c = widths
    side = ((side - 4) // 2 - 2) // 2 - 2
    return (
        5 * 5 * channels * a + 2 * a + 3 * 3 * a * b + 2 * b + 3 * 3 * b * c + 2 * c + (side * side * c + 1) * classes
    )


@pytest.mark.parametrize("widths", [(16, 32, 64), (1, 2, 3), (8, 8, 8)], ids=str)
@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((3, 20, 20), 3), ((1, 32, 32), 2)], ids=str)
def test_parameters_are_those_of_the_layers(widths, image_shape, classes):
    model = CNN(widths, num_classes=classes, image_shape=image_shape)
    expected = parameters_by_hand(widths, image_shape[0], image_shape[1], classes)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(("image_shape", "classes"), [((1, 28, 28), 10), ((3, 20, 20), 3), ((1, 20, 37), 2)], ids=str)
def test_it_gives_a_logit_for_each_image_and_class(image_shape, classes):
    torch.manual_seed(0)
    logits = CNN((4, 6, 8), num_classes=classes, image_shape=image_shape)(torch.randn(50, *image_shape))
    assert logits.shape == (50, classes)
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_images_shrink_as_documented():
    """28 to 24, 12, 10, 5 and 3."""
    sides, images = [], torch.zeros(1, 1, 28, 28)
    for layer in CNN((4, 6, 8)).eval().network:
        images = layer(images)
        if images.ndim == 4 and images.shape[-1] not in sides:
            sides.append(images.shape[-1])
    assert sides == [24, 12, 10, 5, 3]


def test_without_max_pooling_the_sizes_and_parameters_are_the_same():
    striding = CNN((4, 6, 8), max_pooling=False).eval()
    sides, images = [], torch.zeros(1, 1, 28, 28)
    for layer in striding.network:
        images = layer(images)
        if images.ndim == 4 and images.shape[-1] not in sides:
            sides.append(images.shape[-1])
    assert sides == [12, 5, 3]
    assert not any(isinstance(layer, torch.nn.MaxPool2d) for layer in striding.network)
    assert [p.shape for p in striding.parameters()] == [p.shape for p in CNN((4, 6, 8)).parameters()]


@pytest.mark.parametrize("size", [28, 29, 31])
def test_without_max_pooling_any_size_gives_logits(size):
    images = torch.randn(2, 1, size, size)
    assert CNN((4, 6, 8), max_pooling=False, image_shape=(1, size, size)).eval()(images).shape == (2, 10)


def test_a_cropped_network_sees_the_middle_of_the_image_only():
    torch.manual_seed(0)
    whole = torch.randn(3, 1, 28, 30)
    cropped = CNN((4, 6, 8), crop=3, image_shape=(1, 28, 30)).eval()
    inner = CNN((4, 6, 8), image_shape=(1, 22, 24)).eval()
    inner.network.load_state_dict(
        dict(zip(inner.network.state_dict(), cropped.network.state_dict().values(), strict=True))
    )
    assert torch.equal(cropped(whole), inner(whole[..., 3:-3, 3:-3]))
    border = whole.clone()
    border[..., 3:-3, 3:-3] = 0
    assert torch.equal(cropped(whole - border), cropped(whole))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    images = torch.randn(16, 1, 28, 28)
    model = CNN((4, 6, 8), dropout=0.5)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (16, 32)}, r"widths must be three numbers >= 1 .* got \(16, 32\) and"),
        ({"widths": (16, 0, 64)}, r"widths must be three numbers >= 1 .* got \(16, 0, 64\) and"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got .* and 1.0"),
        ({"dropout": -0.1}, r"dropout in \[0, 1\), got .* and -0.1"),
        ({"image_shape": (1, 19, 28)}, r"leave 20 x 20 pixels or more, got 0 for 19 x 28"),
        ({"image_shape": (1, 28, 19)}, r"leave 20 x 20 pixels or more, got 0 for 28 x 19"),
        ({"crop": 5}, r"leave 20 x 20 pixels or more, got 5 for 28 x 28"),
        ({"crop": -1}, r"crop must be >= 0 .* got -1 for"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CNN(**arguments)
