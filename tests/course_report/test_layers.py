"""What the report says of dropout, pooling and separable convolutions (questions 1.2.4a and b), and what they do."""

import torch
from torch import nn


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
    of_plain, of_separable = (sum(p.numel() for p in layer.parameters()) for layer in (plain, separable))
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
