"""The formulas give the counts, and the rows sum up to the network."""

import pytest
import torch
from torch import nn

from losslab.models import CNN, MLP, Classifier, ResNet, SeparableCNN
from losslab.models.layer_table import LayerRow, layer_table

IMAGE = torch.zeros(1, 1, 28, 28)
CHANNELS = torch.zeros(1, 64, 8, 8)


def value(formula: str) -> int:
    """A formula worked out as arithmetic, apart from the code that wrote it."""
    return eval(formula.replace("·", "*")) if formula else 0


def row_of(layer: nn.Module, image: torch.Tensor) -> LayerRow:
    (row,) = layer_table(layer, image).rows
    return row


def own_network(forward, **modules: nn.Module) -> nn.Module:
    """A network of these submodules."""

    class Network(nn.Module):
        def forward(self, x):
            return forward(self, x)

    network = Network()
    for name, module in modules.items():
        setattr(network, name, module)
    return network


@pytest.mark.parametrize(
    ("layer", "shape", "formula", "count"),
    [
        (nn.Linear(784, 10), (784,), "(784 + 1)·10", 7850),
        (nn.Linear(576, 10, bias=False), (576,), "576·10", 5760),
        (nn.Conv2d(1, 64, 3, bias=False), (1, 9, 9), "3·3·1·64", 576),
        (nn.Conv2d(1, 64, 3), (1, 9, 9), "3·3·1·64 + 64", 640),
        (nn.Conv2d(64, 64, 3, bias=False), (64, 9, 9), "3·3·64·64", 36_864),
        (nn.Conv2d(64, 64, 3), (64, 9, 9), "3·3·64·64 + 64", 36_928),
        (nn.Conv2d(64, 64, 3, groups=64, bias=False), (64, 9, 9), "3·3·(64/64)·64", 576),
        (nn.Conv2d(64, 32, (1, 5), groups=4), (64, 9, 9), "1·5·(64/4)·32 + 32", 2592),
        (nn.Conv1d(4, 6, 3), (4, 9), "3·4·6 + 6", 78),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 9, 9), "3·3·(4/2)·6 + 6", 114),
        (nn.BatchNorm2d(16), (16, 9, 9), "2·16", 32),
        (nn.BatchNorm1d(5, affine=False), (5,), "", 0),
        (nn.MaxPool2d(2), (1, 8, 8), "", 0),
        # Kinds without a formula of their own: the shapes.
        (nn.GroupNorm(2, 8), (8, 3, 3), "8 + 8", 16),
        (nn.Bilinear(2, 3, 4), None, "4·2·3 + 4", 28),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
def test_a_layer_has_its_formula_and_as_many_parameters(layer, shape, formula, count):
    if shape is None:
        layer = own_network(lambda self, x: self.layer(x[:, :2], x[:, 2:]), layer=layer)
    row = row_of(layer, torch.zeros(1, *(shape or (5,))))
    assert (row.formula, row.parameters) == (formula, count)
    assert value(row.formula) == count == sum(p.numel() for p in layer.parameters())


def test_a_formula_that_does_not_give_the_count_makes_way_for_the_shapes():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.scale, self.temperature = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(()))

    row = row_of(Scaled(), torch.zeros(1, 3))
    assert (row.kind, row.formula, row.parameters) == ("Scaled", "4·3 + 4 + 4 + 1", 21)


def test_batch_norm_has_two_parameters_a_channel_and_a_state_that_is_not_trained():
    """A course report said 4 parameters a channel: two of them are the running mean and variance."""
    layer = nn.BatchNorm2d(64)
    table = layer_table(layer, CHANNELS)
    assert (table.trainable, table.frozen, table.buffers) == (128, 0, 128 + 1)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert {name for name, _ in layer.named_buffers()} == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_convolution_before_batch_norm_needs_no_bias():
    table = layer_table(nn.Sequential(nn.Conv2d(1, 64, 3, bias=False), nn.BatchNorm2d(64)), IMAGE)
    assert [row.parameters for row in table.rows] == [576, 128]
    assert table.trainable == 704


def test_a_depthwise_separable_convolution_has_an_eighth_of_the_weights():
    depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    table = layer_table(nn.Sequential(depthwise, nn.Conv2d(64, 64, 1, bias=False)), CHANNELS)
    assert [(row.formula, row.parameters) for row in table.rows] == [("3·3·(64/64)·64", 576), ("1·1·64·64", 4096)]
    assert table.trainable == 4672
    assert layer_table(nn.Conv2d(64, 64, 3, bias=False), CHANNELS).trainable == 36_864


def test_the_course_reports_network():
    table = layer_table(MLP(), IMAGE)
    assert [(row.name, row.kind, row.shapes, row.formula, row.parameters) for row in table.rows] == [
        ("network.0", "Flatten", [(784,)], "", 0),
        ("network.1", "Linear", [(10,)], "(784 + 1)·10", 7850),
        ("network.2", "ReLU", [(10,)], "", 0),
        ("network.3", "Linear", [(10,)], "(10 + 1)·10", 110),
    ]
    assert (table.trainable, table.frozen, table.buffers) == (7960, 0, 0)


def test_the_cnns_shapes_and_totals():
    table = layer_table(CNN(), IMAGE)
    assert [row.shapes[0] for row in table.rows if row.kind in ("Conv2d", "MaxPool2d", "Flatten", "Linear")] == [
        *[(16, 24, 24), (16, 12, 12), (32, 10, 10), (32, 5, 5), (64, 3, 3), (576,), (10,)]
    ]
    assert (table.trainable, table.buffers) == (400 + 4608 + 18_432 + 2 * 112 + 5770, 2 * 112 + 3) == (29_434, 227)


@pytest.mark.parametrize("kind", [MLP, CNN, SeparableCNN, ResNet])
def test_the_rows_sum_up_to_the_network(kind: type[Classifier]):
    model = kind(num_classes=3, image_shape=(3, 20, 20))
    model.network[-1].requires_grad_(False)
    table = layer_table(model, torch.zeros(1, 3, 20, 20))
    assert table.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert table.frozen == sum(p.numel() for p in model.network[-1].parameters()) > 0
    assert table.buffers == sum(b.numel() for b in model.network.buffers())
    for row in table.rows:
        assert value(row.formula) == row.parameters
        assert len(row.shapes) == 1


def test_rows_are_in_the_order_of_execution_and_the_uncalled_come_last():
    network = own_network(
        lambda self, x: self.first(self.second(x)),
        unused=nn.Linear(3, 4),
        first=nn.Linear(5, 6),
        second=nn.Linear(784, 5),
    )
    table = layer_table(network, torch.zeros(1, 784))
    assert [(row.name, row.shapes, row.parameters) for row in table.rows] == [
        ("second", [(5,)], 785 * 5),
        ("first", [(6,)], 6 * 6),
        ("unused", [], 16),
    ]
    assert table.trainable == sum(p.numel() for p in network.parameters())


def test_a_module_that_is_called_twice_is_counted_once():
    shared = nn.Conv2d(1, 1, 3, bias=False)
    network = own_network(lambda self, x: self.again(self.layer(x)), layer=shared, again=shared)
    row = row_of(network, IMAGE)
    assert (row.name, row.shapes, row.parameters) == ("layer", [(1, 26, 26), (1, 24, 24)], 9)


def test_shared_parameters_and_buffers_are_counted_once():
    first, tied, same = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    tied.weight = first.weight
    same.weight, same.bias = first.weight, first.bias
    norms = nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False)
    norms[1].running_mean = norms[0].running_mean
    network = nn.Sequential(first, tied, same, *norms)
    table = layer_table(network, torch.zeros(1, 4))
    assert [(row.formula, row.parameters) for row in table.rows] == [
        *[("(4 + 1)·4", 20), ("4", 4), ("counted above", 0), ("2·4", 8), ("", 0)]
    ]
    assert table.trainable == sum(p.numel() for p in network.parameters()) == 32
    assert table.buffers == sum(b.numel() for b in network.buffers()) == 9 + 5


def test_parameters_and_buffers_of_a_module_with_submodules_are_counted():
    network = own_network(lambda self, x: self.layer(x) * self.scale + self.offset, layer=nn.Linear(784, 2))
    network.scale = nn.Parameter(torch.ones(2))
    network.register_buffer("offset", torch.ones(2))
    table = layer_table(network, torch.zeros(1, 784))
    assert [(row.name, row.formula, row.parameters, row.buffers) for row in table.rows] == [
        ("layer", "(784 + 1)·2", 1570, 0),
        ("", "2", 2, 2),
    ]
    # A buffer alone is reason enough for a row.
    network = own_network(lambda self, x: self.layer(x) + self.offset, layer=nn.ReLU())
    network.register_buffer("offset", torch.ones(2))
    assert layer_table(network, torch.zeros(1, 2)).buffers == 2


def test_a_loss_counts_only_if_it_has_parameters():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(3))
            self.register_buffer("gamma", torch.ones(()))

    plain = nn.CrossEntropyLoss(weight=torch.ones(10))  # which is a buffer
    assert layer_table(MLP(loss=plain), IMAGE) == layer_table(MLP(), IMAGE)
    model = MLP(loss=Learned())
    table = layer_table(model, IMAGE)
    assert table.rows[-1] == ("loss", "Learned", [], "3", 3, 0, 0)
    assert table.trainable == sum(p.numel() for p in model.parameters()) == 7963


def test_outputs_that_are_not_one_tensor_for_each_image():
    states = row_of(nn.LSTM(5, 8, batch_first=True), torch.zeros(1, 4, 5))
    assert (states.shapes, states.formula) == ([(4, 8)], "32·5 + 32·8 + 32 + 32")
    patches = row_of(
        own_network(lambda self, x: self.layer(x.reshape(7, 2)), layer=nn.Linear(2, 3)), torch.zeros(1, 14)
    )
    assert patches.shapes == [(7, 3)]
    named = own_network(lambda self, x: {"logits": x})
    assert row_of(named, torch.zeros(1, 2)).shapes == [None]


def test_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.BatchNorm1d(4).eval())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer_table(model, torch.randn(1, 4))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        layer_table(model, torch.randn(1, 4, 1, 1))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
