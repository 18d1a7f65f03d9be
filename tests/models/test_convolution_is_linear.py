"""A convolution is a fully connected layer with most weights zero and the rest shared: when they agree, when not."""

import itertools

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def exact_and_repeatable():
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


def matrix_of(convolution: nn.Conv2d, shape: tuple[int, int, int]) -> Tensor:
    """(outputs, inputs): column j is what the convolution, without its bias, makes of the image that is 1 at pixel j.

    `shape` is that of one image, (channels, height, width).
    """
    inputs = torch.Size(shape).numel()
    units = torch.eye(inputs).reshape(inputs, *shape)
    bias, convolution.bias = convolution.bias, None
    columns = convolution(units).detach().flatten(start_dim=1)
    convolution.bias = bias
    return columns.T


def weights_of(layer: nn.Module) -> int:
    return layer.weight.numel()


def circular(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="circular")


def test_a_convolution_is_a_matrix_of_few_and_shared_weights():
    """Theorem: a convolution is x -> A x + b, with a sparse A in which each kernel weight stands many times.

    From 3 to 4 channels of 5 x 5, A is 100 x 75. Along one axis, 5 positions times 3 taps less the 2 that fall on the
    padding meet a pixel, 13 of 25 pairs; so 4 * 3 * 13 * 13 = 2,028 of the 7,500 entries are not zero, and they take
    only the kernel's 3 * 3 * 3 * 4 = 108 values.
    """
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    matrix = matrix_of(convolution, (3, 5, 5))
    assert matrix.shape == (100, 75)
    assert matrix.numel() == 7500
    assert int((matrix != 0).sum()) == 4 * 3 * 13 * 13 == 2028
    values = matrix[matrix != 0].unique()
    assert len(values) == weights_of(convolution) == 3 * 3 * 3 * 4 == 108
    assert torch.equal(values, convolution.weight.flatten().sort().values)

    images = torch.randn(16, 3, 5, 5)
    bias = convolution.bias.repeat_interleave(25)  # one number a channel, the same at each of its pixels
    expected = images.flatten(start_dim=1) @ matrix.T + bias
    torch.testing.assert_close(convolution(images).flatten(start_dim=1), expected, **TOLERANCE)


@pytest.mark.parametrize(("channels", "height", "width", "outputs"), [(1, 28, 28, 10), (3, 5, 4, 7)])
def test_a_kernel_as_large_as_the_image_is_a_fully_connected_layer(channels, height, width, outputs):
    """Theorem: Conv2d(C, K, (H, W)) without padding is Linear(C H W, K): same weights, same number, same output."""
    convolution = nn.Conv2d(channels, outputs, (height, width))
    linear = nn.Linear(channels * height * width, outputs)
    assert sum(p.numel() for p in convolution.parameters()) == sum(p.numel() for p in linear.parameters())
    linear.load_state_dict({"weight": convolution.weight.flatten(start_dim=1), "bias": convolution.bias})
    images = torch.randn(16, channels, height, width)
    torch.testing.assert_close(convolution(images)[:, :, 0, 0], linear(images.flatten(start_dim=1)), **TOLERANCE)


def test_only_a_kernel_as_large_as_the_image_has_as_many_weights_as_the_fully_connected_layer():
    """Theorem: without padding, a convolution has as many weights as the fully connected layer between the same images
    if and only if its kernel covers the image; else it has fewer.

    K C h w against (C H W)(K H' W'), where H' x W' is the size of the output: h <= H <= H H', and equal if and only
    if h = H, since then H' = 1; likewise w. With padding there is an exception: on a single pixel with padding on all
    sides, each of the kernel's weights meets it once.
    """
    for height, width, stride in itertools.product(range(1, 6), range(1, 6), (1, 2)):
        images = torch.zeros(1, 2, height, width)
        for kernel in itertools.product(range(1, height + 1), range(1, width + 1)):
            convolution = nn.Conv2d(2, 3, kernel, stride, bias=False)
            needed = images.numel() * convolution(images).numel()
            assert weights_of(convolution) <= needed
            assert (weights_of(convolution) == needed) == (kernel == (height, width))
    padded, pixel = nn.Conv2d(2, 3, 3, padding=2, bias=False), (2, 1, 1)
    assert weights_of(padded) == matrix_of(padded, pixel).numel() == 54


def test_the_fully_connected_layer_with_the_outputs_of_a_small_kernel_has_68295_times_its_weights():
    """3 x 3 from 1 to 64 channels on 28 x 28, the size kept: 576 weights against 784 * 50,176 = 39,337,984.

    None with fewer has the same outputs, since a linear map has one matrix only. On 6 x 6 it can be written down.
    """
    convolution = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    outputs = convolution(torch.zeros(1, 1, 28, 28)).numel()
    linear = nn.Linear(784, outputs, bias=False, device="meta")  # 315 MB in float64, were it real
    assert outputs == 50_176
    assert weights_of(convolution) == 3 * 3 * 1 * 64 == 576
    assert weights_of(linear) == 784 * 50_176 == 39_337_984
    assert weights_of(linear) // weights_of(convolution) == 68_295

    matrix = matrix_of(convolution, (1, 6, 6))
    assert matrix.shape == (64 * 36, 36)
    assert matrix.numel() == 144 * weights_of(convolution)


def test_a_1x1_convolution_is_one_fully_connected_layer_at_every_pixel():
    """Theorem: Conv2d(C, K, 1) is Linear(C, K) on the C channels of each pixel, whatever the image's size."""
    convolution, linear = nn.Conv2d(3, 4, 1), nn.Linear(3, 4)
    linear.load_state_dict({"weight": convolution.weight[:, :, 0, 0], "bias": convolution.bias})
    for size in [(5, 5), (1, 1), (7, 2)]:
        images = torch.randn(8, 3, *size)
        pixel_by_pixel = linear(images.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(convolution(images), pixel_by_pixel, **TOLERANCE)
    assert sum(p.numel() for p in convolution.parameters()) == sum(p.numel() for p in linear.parameters())


def test_convolution_and_average_pooling_see_nothing_but_the_mean_of_each_channel():
    """Theorem: circular convolution, global average pooling, then a fully connected layer, with nothing non-linear in
    between, is a fully connected layer on the channels' means, whose matrix is V S, S the sum of the kernel.

    The course report's claim, that the three can be replaced by a fully connected layer, holds in this form. But that
    layer has C inputs instead of C H W: with one channel, all that it knows of an image is how bright it is. And it
    has not as many parameters: 48 here, where the three have 332.
    """
    convolution, linear = circular(3, 8), nn.Linear(8, 12)
    network = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    kernel_sum = convolution.weight.sum(dim=(2, 3))  # (8, 3)
    on_means = nn.Linear(3, 12)
    on_means.load_state_dict(
        {"weight": linear.weight @ kernel_sum, "bias": linear.weight @ convolution.bias + linear.bias}
    )
    images = torch.randn(16, 3, 6, 7)
    torch.testing.assert_close(network(images), on_means(images.mean(dim=(2, 3))), **TOLERANCE)
    assert sum(p.numel() for p in on_means.parameters()) == 48
    assert sum(p.numel() for p in network.parameters()) == (27 * 8 + 8) + (8 * 12 + 12) == 332

    shuffled = images.flatten(start_dim=2)[:, :, torch.randperm(42)].reshape(images.shape)
    torch.testing.assert_close(network(shuffled), network(images), **TOLERANCE)


def test_with_a_relu_in_between_the_mean_of_each_channel_is_not_enough():
    """Counter-example to the claim for real networks: columns and rows of the same mean, told apart by a ReLU.

    The kernel is the difference of a pixel and its left neighbour. Its mean over the image is 0 for every image; the
    mean of its positive part counts the edges. No function of the channels' means can do so.
    """
    columns = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 4, 4)
    rows = columns.transpose(2, 3)
    convolution = circular(1, 1)
    convolution.load_state_dict(
        {"weight": torch.tensor([[[[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]), "bias": torch.zeros(1)}
    )
    pooled = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    rectified = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    print(f"columns, mean {columns.mean():g}, after the ReLU {rectified(columns).item():g}:\n{columns[0, 0]}")
    print(f"rows, mean {rows.mean():g}, after the ReLU {rectified(rows).item():g}:\n{rows[0, 0]}")
    assert columns.mean() == rows.mean() == 0.5
    assert pooled(columns).item() == pooled(rows).item() == 0
    assert rectified(columns).item() == 0.25  # one edge upwards in each row of four pixels
    assert rectified(rows).item() == 0
    assert abs(rectified(columns) - rectified(rows)).item() > 0.1


def test_a_circular_convolution_commutes_with_shifts_and_a_fully_connected_layer_does_not():
    """Theorem: a convolution with circular padding is equivariant to translations: shifting the image shifts the
    output. A fully connected layer with generic weights is not; it has to see each position in training.
    """
    convolution = circular(3, 4)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(75, 100), nn.Unflatten(1, (4, 5, 5)))
    images = torch.randn(8, 3, 5, 5)
    for shift in itertools.product(range(5), range(5)):
        moved = torch.roll(images, shift, dims=(2, 3))
        convolved, connected = (torch.roll(layer(images), shift, dims=(2, 3)) for layer in (convolution, linear))
        torch.testing.assert_close(convolution(moved), convolved, **TOLERANCE)
        if shift != (0, 0):
            assert (linear(moved) - connected).abs().max() > 0.1


def test_a_convolution_takes_images_of_any_size_and_a_fully_connected_layer_of_one():
    """A kernel knows nothing of the image's size; a fully connected layer has a weight for each pixel."""
    convolution, linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(3 * 5 * 5, 4)
    for height, width in [(5, 5), (6, 5), (28, 28)]:
        images = torch.zeros(2, 3, height, width)
        assert convolution(images).shape == (2, 4, height, width)
        if (height, width) == (5, 5):
            assert linear(images.flatten(start_dim=1)).shape == (2, 4)
        else:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                linear(images.flatten(start_dim=1))
