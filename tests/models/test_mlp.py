import pytest
import torch
from torch import nn

from losslab.models import MLP


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_default_is_the_course_reports_network_of_7960_parameters():
    assert parameters(MLP()) == (784 + 1) * 10 + (10 + 1) * 10 == 7960


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"hidden": ()}, (784 + 1) * 10),
        ({"hidden": (30, 20)}, (784 + 1) * 30 + (30 + 1) * 20 + (20 + 1) * 10),
        # Batch norm has a weight and a bias of its own; the bias before it would do nothing.
        ({"hidden": (30, 20), "batch_norm": True}, 784 * 30 + 2 * 30 + 30 * 20 + 2 * 20 + (20 + 1) * 10),
        ({"hidden": (30, 20), "dropout": 0.5}, (784 + 1) * 30 + (30 + 1) * 20 + (20 + 1) * 10),
        ({"hidden": (7,), "num_classes": 3, "image_shape": (3, 20, 20)}, (1200 + 1) * 7 + (7 + 1) * 3),
    ],
    ids=str,
)
def test_parameters_are_those_of_the_layers(arguments, count):
    assert parameters(MLP(**arguments)) == count


@pytest.mark.parametrize(("num_classes", "image_shape"), [(10, (1, 28, 28)), (3, (3, 20, 20)), (2, (1, 1, 1))])
@pytest.mark.parametrize("hidden", [(), (10,), (8, 8)])
def test_it_gives_a_logit_for_each_image_and_class(hidden, num_classes, image_shape):
    torch.manual_seed(0)
    logits = MLP(hidden, num_classes=num_classes, image_shape=image_shape)(torch.randn(50, *image_shape))
    assert logits.shape == (50, num_classes)
    assert (logits < 0).any()
    assert (logits > 0).any()


def test_without_a_hidden_layer_it_is_linear():
    torch.manual_seed(0)
    model, (a, b) = MLP(()), torch.randn(2, 4, 1, 28, 28)
    torch.testing.assert_close(model(a) + model(b), model(a + b) + model(torch.zeros(1, 1, 28, 28)))


def test_hidden_layers_are_followed_by_a_relu():
    """With the hidden units at or below 0, nothing but the last bias is left."""
    model = MLP()
    with torch.no_grad():
        model.network[1].bias.fill_(-1e6)
    torch.testing.assert_close(model(torch.rand(3, 1, 28, 28)), model.network[-1].bias.expand(3, -1))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, images = MLP((50,), dropout=0.5), torch.randn(4, 1, 28, 28)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_batch_norm_normalises_over_the_batch_in_training_and_alone_in_evaluation():
    torch.manual_seed(0)
    model, images = MLP((50,), batch_norm=True), torch.randn(8, 1, 28, 28)
    model.train()
    assert not torch.allclose(model(images)[:4], model(images[:4]))
    model.eval()
    torch.testing.assert_close(model(images)[:4], model(images[:4]))


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({"hidden": (0,)}, r"\[0\] and 0.0"),
        ({"hidden": (8, -1)}, r"\[8, -1\] and 0.0"),
        ({"dropout": 1.0}, r"\[10\] and 1.0"),
        ({"dropout": -0.1}, r"\[10\] and -0.1"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, got):
    with pytest.raises(ValueError, match=rf"hidden widths must be >= 1 and dropout in \[0, 1\), got {got}"):
        MLP(**arguments)
