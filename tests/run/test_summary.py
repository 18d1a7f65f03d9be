"""The formulas give the counts, and the rows sum up to the network."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from losslab.cli import main
from losslab.models import CNN, MLP, Classifier, ResNet, SeparableCNN
from losslab.run.summary import LayerRow, layer_table

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


OWN_NETWORK = """\
import math
from typing import Any
from torch import nn
from losslab.models import Classifier


class Linear(Classifier):
    def __init__(self, width: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(width or math.prod(self.image_shape), self.num_classes))
        self.spare = nn.Linear(3, 4).requires_grad_(False)
        self.relu = nn.ReLU()

    def forward(self, images):
        return self.relu(self.relu(self.network(images)))
"""

UNUSUAL_NETWORK = """\
from typing import Any
import torch
from torch import nn
from losslab.models import Classifier


class Unusual(Classifier):
    def __init__(self, fails: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.fails = fails
        self.network = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Flatten())
        self.a_head_with_a_name_that_is_so_long_that_80_columns_cannot_hold_it_with_the_rest = nn.Linear(784, 10)
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, images):
        if self.fails:
            raise ValueError("told in\\ntwo lines")
        head = self.a_head_with_a_name_that_is_so_long_that_80_columns_cannot_hold_it_with_the_rest
        return self.scale * head(self.network(images))
"""

OWN_DATA = """\
from losslab.data import ImageDataModule


class Stripes(ImageDataModule):
    data_name = "stripes"
    class_names = ("horizontal", "vertical", "none")
    image_shape = (3, 20, 20)

    def load_train(self):
        raise AssertionError("data were read")

    load_test = load_train
"""


@pytest.fixture(autouse=True)
def unreadable_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("data were read")

    for name in ("find_mnist", "embedded_mnist", "read_mnist", "download_mnist"):
        monkeypatch.setattr(f"losslab.data.mnist.{name}", read)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    def of(*words: str) -> str:
        assert main(["summary", *words]) == 0
        return capsys.readouterr().out

    return of


def cells(text: str, layer: str) -> list[str]:
    """The row of a layer."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{layer} "))
    return re.split(r"\s{2,}", line.strip())


def test_a_network_of_losslabs_without_data(printed, own_folder: Path) -> None:
    text = printed("--model", "CNN")
    assert text.startswith("CNN: one image of 1x28x28, 10 classes (mnist)\n")
    assert cells(text, "layer") == ["layer", "kind", "output", "parameters", "count", "buffers"]
    assert cells(text, "network.0") == ["network.0", "Conv2d", "16x24x24", "5·5·1·16", "400"]
    assert cells(text, "network.2") == ["network.2", "BatchNorm2d", "16x12x12", "2·16", "32", "33"]
    assert cells(text, "network.3") == ["network.3", "ReLU", "16x12x12", "0"]
    assert cells(text, "network.13") == ["network.13", "Linear", "10", "(576 + 1)·10", "5,770"]
    assert "Trainable parameters: 29,434\nBuffers: 227 values, which no optimiser trains\nBatch norm has 2 " in text
    assert "Frozen" not in text
    assert list(own_folder.iterdir()) == []


def test_batch_norm_and_buffers_are_mentioned_where_there_are_any(printed) -> None:
    text = printed("--model", "MLP", "--model.loss", "FocalLoss")
    assert "Trainable parameters: 7,960\n" in text
    assert "Batch norm" not in text
    assert "Buffers" not in text  # focal loss's gamma is one, but not the network's


@pytest.mark.parametrize(
    ("name", "trainable"),
    [("mlp", "7,960"), ("cnn", "29,434"), ("fast", "26,234"), ("separable_cnn", "34,986"), ("resnet", "78,010")],
)
def test_every_experiment(printed, repository: Path, name: str, trainable: str) -> None:
    assert f"Trainable parameters: {trainable}\n" in printed(
        "--config", str(repository / "experiments" / f"{name}.yaml")
    )


def test_a_network_and_data_of_ones_own(printed, own_folder: Path) -> None:
    (own_folder / "summary_model.py").write_text(OWN_NETWORK)
    (own_folder / "summary_data.py").write_text(OWN_DATA)
    text = printed("--model", "summary_model.Linear")
    assert cells(text, "network.1") == ["network.1", "Linear", "10", "(784 + 1)·10", "7,850"]
    assert cells(text, "relu") == ["relu", "ReLU", "10, first of 2 calls", "0"]
    assert cells(text, "spare") == ["spare", "Linear", "not called", "(3 + 1)·4", "16"]
    assert "Trainable parameters: 7,850\nFrozen parameters: 16\n" in text

    text = printed("--model", "summary_model.Linear", "--data", "summary_data.Stripes")
    assert text.startswith("Linear: one image of 3x20x20, 3 classes (stripes)\n")
    assert cells(text, "network.1") == ["network.1", "Linear", "3", "(1200 + 1)·3", "3,603"]

    model = "model: {class_path: summary_model.Linear}\n"
    (own_folder / "without.yaml").write_text(model)
    assert "10 classes (mnist)" in printed("--config", "without.yaml")
    (own_folder / "with.yaml").write_text(f"{model}data: {{class_path: summary_data.Stripes}}\n")
    assert "3 classes (stripes)" in printed("--config", "with.yaml")


def test_unusual_parts(printed, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_folder / "summary_unusual.py").write_text(UNUSUAL_NETWORK)
    text = printed("--model", "summary_unusual.Unusual")
    assert cells(text, "(itself)") == ["(itself)", "Unusual", "10", "10", "10"]
    long = "a_head_with_a_name_that_is_so_long_that_80_columns_cannot_hold_it_with_the_rest"  # a pipe is wide
    assert cells(text, long) == [long, "Linear", "10", "(784 + 1)·10", "7,850"]
    assert "Buffers: 3 values" in text
    assert "Batch norm has 2 parameters" not in text  # this one has none
    assert main(["summary", "--model", "summary_unusual.Unusual", "--model.fails", "true"]) == 2
    message = "losslab summary: error: Unusual cannot take an image of 1x28x28: told in two lines\n"
    assert capsys.readouterr().err == message


def test_the_trainer_of_an_experiment_is_not_built(printed, own_folder: Path) -> None:
    (own_folder / "tracked.yaml").write_text(
        "model: {class_path: MLP}\ntrainer: {accelerator: cuda, devices: 7, logger: {class_path: WandbLogger}}\n"
    )
    assert "7,960" in printed("--config", "tracked.yaml")
    assert [file.name for file in own_folder.iterdir()] == ["tracked.yaml"]


def test_a_wide_table_is_not_cut(printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns hold the ResNet; in fewer, a name goes on in the next line."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the output for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed("--model", "ResNet"))
    assert cells(text, "network.4.residual.0")[1:] == ["Conv2d", "16x14x14", "3·3·16·16", "2,304"]
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "50")
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", printed("--model", "ResNet"))
    assert "…" not in narrow
    assert max(map(len, narrow.split("\n\n")[1].splitlines())) <= 50


MISTAKES = {
    (): "no model is given: add --config experiments/cnn.yaml, or --model CNN.",
    ("--model", "CN"): "unknown class 'CN'; did you mean CNN?",
    ("--model", "CNN", "--model.width", "3"): "CNN has no argument 'width'; did you mean widths?",
    ("--model", "CNN", "--model.widths", "[1, 2]"): "widths must be three numbers >= 1",
    ("--model", "CNN", "--data", "MNISTDataModul"): "unknown class 'MNISTDataModul'; did you mean MNISTDataModule?",
    ("--model", "nowhere.Net"): "there is no module 'nowhere'; modules are searched in the current folder",
    ("--model", "summary_model.Linea"): "unknown class 'summary_model.Linea'; did you mean Linear?",
    ("--config", "cn.yaml"): "cannot read cn.yaml: No such file or directory; did you mean cnn.yaml?",
    ("--config", "cnn.yaml", "--run", "runs/cnn"): "unknown option --run",
    ("--model", "summary_model.Linear", "--model.width", "783"): (
        "Linear cannot take an image of 1x28x28: addmm: mat1 and mat2 shapes cannot be multiplied (1x784 and 783x10)"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=" ".join)
def test_a_mistake_gets_one_line(
    mistake: tuple[str, ...], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "summary_model.py").write_text(OWN_NETWORK)
    (own_folder / "cnn.yaml").write_text("model: {class_path: CNN}\n")
    assert main(["summary", *mistake]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("losslab summary: error: ")
    assert MISTAKES[mistake] in error
    assert error.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["summary", "--help"])
    assert ended.value.code == 0
    assert "usage: losslab summary [--config FILE ...] [options]" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "  summary   print a network's layers, shapes and parameter counts\n" in capsys.readouterr().out
