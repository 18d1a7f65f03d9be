"""A user's own network, written short as in the README, from the shell and in a study."""

import sys
from pathlib import Path

import pytest

from losslab.cli import main
from losslab.run import CommandLine, read_yaml

NETWORKS = '''\
import math
from typing import Any

from torch import Tensor, nn

from losslab.models import Classifier


class Linear(Classifier):
    """Softmax regression."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.image_shape), self.num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class Vague(Linear):
    def __init__(self, loss: Any = None, **kwargs: Any):
        super().__init__(loss=loss, **kwargs)


class Untyped(Linear):
    def __init__(self, widths=(10,), dropout=0.1, extra=None, loss=None, optimizer=None, **kwargs):
        super().__init__(loss=loss, optimizer=optimizer, **kwargs)
'''

DATA = ["--data", "tiny_digits.TinyDigits"]
QUICK = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SGD = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.1"]
LINEAR = ["--model", "my_model.Linear", "--model.loss", "FocalLoss", "--model.loss.gamma", "2", *SGD]

MLP = """\
model:
  class_path: losslab.models.MLP
  init_args:
    hidden: [10]
    loss: {class_path: losslab.losses.FocalLoss}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5}}
data: {class_path: tiny_digits.TinyDigits}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
"""

STUDY = """\
experiment: mlp.yaml
arms:
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss, init_args: {gamma: 2}}}
  dice: {model.init_args.loss: {class_path: losslab.losses.DiceLoss}}
grid: {model.init_args.optimizer.init_args.lr: [0.1, 0.2]}
seeds: [0]
"""


@pytest.fixture(autouse=True)
def my_model(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "my_model.py").write_text(NETWORKS)
    (own_folder / "mlp.yaml").write_text(MLP)
    (own_folder / "linear.yaml").write_text(MLP.replace("losslab.models.MLP", "my_model.Linear").replace("hidden", "#"))
    monkeypatch.syspath_prepend(own_folder)
    monkeypatch.delitem(sys.modules, "my_model", raising=False)


def trained_with(config: dict) -> tuple[str, str, str, float]:
    """The classes of network, loss and optimiser, and the learning rate."""
    arguments = config["model"]["init_args"]
    loss, optimizer = arguments["loss"], arguments["optimizer"]
    return (
        config["model"]["class_path"],
        loss["class_path"].rsplit(".", 1)[-1],
        optimizer["class_path"],
        optimizer["init_args"]["lr"],
    )


def test_it_is_fitted_from_the_shell_and_its_run_records_every_argument() -> None:
    assert main(["fit", *LINEAR, *DATA, *QUICK, "--name", "own"]) == 0
    (file,) = Path("runs/own").glob("*/config.yaml")
    config = read_yaml(file)
    assert trained_with(config) == ("my_model.Linear", "FocalLoss", "torch.optim.SGD", 0.1)
    assert list(config["model"]["init_args"]) == ["loss", "optimizer", "lr_scheduler", "evaluate_train", "lr_interval"]
    assert config["model"]["init_args"]["loss"]["init_args"]["gamma"] == 2
    assert main(["test", "--run", "runs/own", "--trainer.accelerator", "cpu"]) == 0


def test_a_study_gives_it_losses_and_learning_rates() -> None:
    Path("study.yaml").write_text(STUDY)
    assert main(["sweep", "--config", "study.yaml", "--experiment", "linear.yaml", "--keep", "all"]) == 0
    found = {trained_with(read_yaml(file)) for file in Path("runs/study/runs").glob("*/*/config.yaml")}
    assert found == {
        ("my_model.Linear", loss, "torch.optim.SGD", lr) for loss in ("FocalLoss", "DiceLoss") for lr in (0.1, 0.2)
    }


def test_a_misspelt_argument_of_the_base_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "my_model.Linear", "--model.optimiser", "SGD", *DATA]) == 2
    assert "Linear has no argument 'optimiser'; did you mean optimizer?" in capsys.readouterr().err


def test_help_shows_what_it_inherits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "my_model.Linear"])
    text = capsys.readouterr().out
    assert all(f"--model.{name}" in text for name in ("num_classes", "image_shape", "loss", "optimizer"))


@pytest.mark.parametrize(
    "tokens",
    [
        ["--model", "my_model.Untyped", *SGD],
        ["--model.class_path=my_model.Untyped"],
        ["--model", '{"class_path": "my_model.Untyped"}'],
        ["--config", "untyped.yaml"],
    ],
    ids=str,
)
def test_arguments_without_a_type_are_refused_with_the_types_to_write(
    tokens: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("losslab.data.mnist.embedded_mnist", lambda part: pytest.fail("data were read"))
    Path("untyped.yaml").write_text(MLP.replace("losslab.models.MLP", "my_model.Untyped").replace("hidden", "widths"))
    assert main(["fit", *tokens, *DATA]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "the constructor of my_model.Untyped has arguments without a type: write widths: Sequence[int], "
        "dropout: float, extra: a type, such as int | None; leave loss, optimizer to **kwargs: Any and "
        "super().__init__(**kwargs)."
    ) in error
    assert not Path("runs").exists()


def test_a_short_name_and_any_as_a_type_are_refused_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "my_model.Vague", *DATA]) == 2
    assert "arguments without a type: leave loss to **kwargs: Any" in capsys.readouterr().err
    assert main(["fit", "--model", "Untyped", *SGD, *DATA]) == 2  # a short name, since its module is imported by now
    assert "the constructor of my_model.Untyped has arguments without a type" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_of_an_earlier_version_with_such_a_network_is_still_read() -> None:
    assert main(["fit", "--config", "linear.yaml", "--name", "own"]) == 0
    untyped = "    def __init__(self, evaluate_train='last_epoch', **kwargs):\n        super().__init__(**kwargs)"
    typed = "    def __init__(self, **kwargs: Any) -> None:\n        super().__init__(**kwargs)"
    assert typed in NETWORKS
    Path("my_model.py").write_text(NETWORKS.replace(typed, untyped))
    sys.modules.pop("my_model")
    assert main(["test", "--run", "runs/own", "--trainer.accelerator", "cpu"]) == 0
    assert main(["fit", "--run", "runs/own"]) == 0


def test_a_study_refuses_arguments_without_a_type(capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.yaml").write_text(
        "experiment: mlp.yaml\nseeds: [0]\n"
        "arms: {mlp: {trainer.max_epochs: 1}, own: {model: {class_path: my_model.Untyped}}}\n"
    )
    assert main(["sweep", "--config", "study.yaml"]) == 2
    assert "the constructor of my_model.Untyped has arguments without a type" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tokens",
    [
        ["--model", "my_model.Linear"],
        ["--model.class_path=my_model.Linear"],
        ['--model={"class_path": "my_model.Linear"}'],
        ["--config", "short.yaml"],
        ["--config", "long.yaml"],
    ],
    ids=str,
)
def test_no_optimiser_is_dropped_without_a_word(tokens: list[str], caplog: pytest.LogCaptureFixture) -> None:
    Path("short.yaml").write_text("model: my_model.Linear\n")
    Path("long.yaml").write_text("model: {class_path: my_model.Linear}\n")
    config = CommandLine(["--config", "mlp.yaml", *tokens], "fit").resolved()
    assert config["model"]["init_args"]["optimizer"] is None
    assert "makes model a Linear: the arguments of MLP (hidden, loss, optimizer) are dropped" in caplog.text


def test_a_class_path_alone_keeps_the_arguments_of_the_same_class(caplog: pytest.LogCaptureFixture) -> None:
    Path("same.yaml").write_text("model: losslab.models.MLP\n")
    config = CommandLine(["--config", "mlp.yaml", "--config", "same.yaml"], "fit").resolved()
    assert trained_with(config) == ("losslab.models.MLP", "FocalLoss", "torch.optim.SGD", 0.5)
    assert not caplog.text


def test_a_study_names_what_an_arm_drops_with_the_model(caplog: pytest.LogCaptureFixture) -> None:
    keep = "init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}}"
    Path("study.yaml").write_text(
        f"experiment: mlp.yaml\nseeds: [0]\narms:\n  mlp: {{trainer.max_epochs: 1}}\n"
        f"  bare: {{model: {{class_path: my_model.Linear}}}}\n"
        f"  own: {{model: {{class_path: my_model.Linear, {keep}}}}}\n"
    )
    assert main(["sweep", "--config", "study.yaml"]) == 0
    notices = [message for message in caplog.messages if "replaces the model" in message]
    assert notices == [
        "NOTICE: arm bare replaces the model: it drops the experiment's loss, optimizer.",
        "NOTICE: arm own replaces the model: it drops the experiment's loss.",
    ]
