"""What the report says of the layers of questions 1.2.3 and 1.2.4, and what they have and do."""

import torch
from torch import nn


def count(*layers):
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def test_batch_norm_has_two_parameters_a_channel(counter_example):
    """Scale and shift; the running mean and variance are buffers (S4)."""
    counter_example("S4: 4 parameters a channel", at="64 channels", says=4 * 64, truth=count(nn.BatchNorm2d(64)))


def test_a_convolution_with_batch_norm_has_more_than_its_kernels(counter_example):
    """k k C_in C_out weights, and 2 C_out of batch norm: 576 forgets the latter, and C_in (S5)."""
    for channels, gap in ((1, 100), (64, 30_000)):
        layers = nn.Conv2d(channels, 64, 3, bias=False), nn.BatchNorm2d(64)
        counter_example(
            "S5: 576 parameters", at=f"3 x 3, {channels} -> 64 channels", says=576, truth=count(*layers), gap=gap
        )


def test_the_fully_connected_layer_that_replaces_a_convolution_has_not_as_many_parameters(counter_example):
    """Conv, pooling and FC on one 8 x 8 channel, against the FC from the same pixels to the same outputs (S7)."""
    counter_example(
        "S7: conv + global average pooling + FC can be replaced by an FC with the same number of parameters",
        at="1 x 8 x 8, 3 x 3 to 16 channels, 10 outputs",
        says=count(nn.Conv2d(1, 16, 3), nn.Linear(16, 10)),
        truth=count(nn.Linear(8 * 8, 10)),
    )


def test_dropout_also_scales_and_rests_in_evaluation():
    """In training each value is 0 with probability p and x / (1 - p) otherwise; in evaluation it is x (S9)."""
    torch.manual_seed(0)
    layer, x = nn.Dropout(0.2), torch.rand(200_000, dtype=torch.float64)
    out = layer.train()(x)
    dropped = out == 0
    torch.testing.assert_close(out[~dropped], x[~dropped] / 0.8)
    assert abs(dropped.double().mean() - 0.2) < 0.005
    assert abs(out.mean() - x.mean()) < 0.005
    torch.testing.assert_close(layer.eval()(x), x)


def test_pooling_has_no_parameters_and_keeps_the_largest_not_the_most_important(counter_example):
    """A spot of noise outlives the stroke of a pen (S10)."""
    pool = nn.MaxPool2d(2)
    assert not list(pool.parameters())
    image = torch.tensor([[0.8, 0.8], [0.0, 1.0]])  # a stroke of 0.8, and one wrong pixel
    kept = pool(image[None, None]).item()
    counter_example("S10: max pooling keeps what matters", at="a stroke of .8 beside noise of 1", says=0.8, truth=kept)


def test_a_separable_convolution_saves_parameters():
    """3 x 3, 64 -> 64: 9 * 64 + 64 * 64 = 4,672 weights against 36,864, a share of 1/64 + 1/9 (S13)."""
    plain = nn.Conv2d(64, 64, 3, bias=False)
    separable = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64, bias=False), nn.Conv2d(64, 64, 1, bias=False))
    of_plain, of_separable = count(plain), count(separable)
    assert (of_plain, of_separable) == (36_864, 4_672)
    assert of_separable / of_plain == 1 / 64 + 1 / 9


def test_it_is_a_convolution_whose_kernels_are_products():
    """So whatever it computes, a plain convolution can: it saves, and cannot be the more powerful layer (S13)."""
    torch.manual_seed(0)
    deep, point = nn.Conv2d(3, 3, 3, groups=3, bias=False).double(), nn.Conv2d(3, 5, 1, bias=False).double()
    plain = nn.Conv2d(3, 5, 3, bias=False).double()
    with torch.no_grad():
        plain.weight.copy_(point.weight * deep.weight.transpose(0, 1))  # (5, 3, 1, 1) * (1, 3, 3, 3)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(point(deep(images)), plain(images), rtol=0, atol=1e-14)
