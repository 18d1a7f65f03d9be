"""`losslab summary`, as it is typed."""

import re
from pathlib import Path

import pytest

from losslab.cli import main

OWN_NETWORK = """\
import math
import torch
from torch import nn
from losslab.models import Classifier


class Linear(Classifier):
    def __init__(self, width=0, num_classes=10, image_shape=(1, 28, 28), loss=None, optimizer=None, lr_scheduler=None,
                 evaluate_train="last_epoch"):
        super().__init__(num_classes, image_shape, loss, optimizer, lr_scheduler, evaluate_train)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(width or math.prod(image_shape), num_classes))
        self.spare = nn.Linear(3, 4).requires_grad_(False)
        self.relu = nn.ReLU()

    def forward(self, images):
        return self.relu(self.relu(self.network(images)))
"""

UNUSUAL_NETWORK = """\
import torch
from torch import nn
from losslab.models import Classifier


class Unusual(Classifier):
    def __init__(self, fails=False, num_classes=10, image_shape=(1, 28, 28)):
        super().__init__(num_classes, image_shape, None, None, None, "last_epoch")
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

    for name in ("mnist_is_in", "embedded_mnist", "read_mnist", "download_mnist"):
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
    ("--model", "nowhere.Net"): "there is no module 'nowhere' to take a class from",
    ("--model", "summary_model.Linea"): "unknown class 'summary_model.Linea'; did you mean Linear?",
    ("--config", "cn.yaml"): "cannot read cn.yaml: No such file or directory. Did you mean cnn.yaml?",
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
