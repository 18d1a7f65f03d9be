"""What a command line or a YAML file may say, and the one line that it gets when it says something else."""

import gc
import json
import sys
from pathlib import Path

import pytest

from losslab import cli
from losslab.cli import main
from losslab.errors import UserError
from losslab.run import CommandLine

CNN = """\
model:
  class_path: losslab.models.CNN
  init_args:
    loss: {class_path: losslab.losses.FocalLoss, init_args: {gamma: 1.5, label_smoothing: 0.1}}
data:
  class_path: losslab.data.MNISTDataModule
  init_args: {batch_size: 64}
trainer: {max_epochs: 1}
"""


@pytest.fixture
def cnn(own_folder: Path) -> list[str]:
    (own_folder / "cnn.yaml").write_text(CNN)
    return ["--config", "cnn.yaml"]


SHELL_TYPOS = {
    ("--trainer.max_epoch", "3"): "unknown option --trainer.max_epoch; did you mean --trainer.max_epochs?",
    ("--model.loss.gama", "2"): "FocalLoss has no argument 'gama'; did you mean gamma?",
    ("--model.loss", "FocaLoss"): "unknown class 'FocaLoss'; did you mean FocalLoss?",
    ("--model", "CN"): "unknown class 'CN'; did you mean CNN?",
    ("--data.batchsize", "8"): "MNISTDataModule has no argument 'batchsize'; did you mean batch_size?",
    ("--model.loss.gamma", "two"): "model.loss.gamma must be float, got 'two'",
    ("--model.loss.reduction", "average"): "model.loss.reduction must be one of 'none', 'mean', 'sum', got 'average'",
    ("--model.loss.gamma", "-1"): "gamma must be >= 0 and finite, got -1.0",
    ("--model.optimizer", "torch.optim.Adamm"): "unknown class 'torch.optim.Adamm'; did you mean Adam?",
    ("--model.loss", "nowhere.Loss"): "there is no module 'nowhere'; modules are searched in the current folder",
    ("--data.imbalance", "2"): "data.imbalance must be in (0, 1] or null, got 2.0.",
}

YAML_TYPOS = {
    ("max_epochs", "max_epoch"): "unknown key 'trainer.max_epoch'; did you mean trainer.max_epochs?",
    ("gamma: 1.5", "gama: 1.5"): "FocalLoss has no argument 'gama'; did you mean gamma?",
    ("losses.FocalLoss", "losses.FocaLoss"): "unknown class 'losslab.losses.FocaLoss'; did you mean FocalLoss?",
    ("losslab.models.CNN", "CN"): "unknown class 'CN'; did you mean CNN?",
    ("trainer:", "trainr:"): "unknown key 'trainr.max_epochs'; did you mean trainer.max_epochs?",
    ("gamma: 1.5", "gamma: two"): "model.loss.gamma must be float, got 'two'",
    ("model:", "model: ["): "cnn.yaml is not YAML",
}


@pytest.fixture
def unreadable_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("losslab.data.mnist.find_mnist", read)
    monkeypatch.setattr("losslab.data.mnist.embedded_mnist", read)


def one_line_of(error: str) -> str:
    assert error.startswith("losslab fit: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("typo", SHELL_TYPOS, ids=" ".join)
@pytest.mark.usefixtures("unreadable_data")
def test_a_typo_in_the_shell_gets_one_line(
    cnn: list[str], typo: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *cnn, *typo]) == 2
    assert SHELL_TYPOS[typo] in one_line_of(capsys.readouterr().err)


@pytest.mark.parametrize("typo", YAML_TYPOS, ids=" to ".join)
@pytest.mark.usefixtures("unreadable_data")
def test_a_typo_in_a_file_gets_one_line(typo: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("cnn.yaml").write_text(CNN.replace(*typo))
    assert main(["fit", "--config", "cnn.yaml"]) == 2
    assert YAML_TYPOS[typo] in one_line_of(capsys.readouterr().err)


def test_unknown_commands_and_files_name_the_nearest(
    cnn: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fitt"]) == 2
    assert "did you mean fit?" in capsys.readouterr().err
    assert main(["fit", "--config", "cn.yaml"]) == 2
    assert "cannot read cn.yaml: No such file or directory; did you mean cnn.yaml?" in capsys.readouterr().err
    assert main(["fit"]) == 2
    assert "no model is given" in capsys.readouterr().err
    for command in ("test", "validate", "predict"):
        assert main([command]) == 2
        assert "needs --run" in capsys.readouterr().err


def test_help_names_every_command_and_fit_help_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("fit", "validate", "test", "predict", "sweep", "runs"))
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("--model.help", "--data.help", "--trainer.max_epochs", "--ckpt_path", "--name")
    )


def test_short_names_and_import_paths_mean_the_same(cnn: list[str]) -> None:
    short = CommandLine([*cnn, "--model.loss", "DiceLoss", "--model.loss.squared", "true"], "fit").resolved()
    long = CommandLine([*cnn, "--model.loss", "losslab.losses.DiceLoss", "--model.loss.squared=true"], "fit").resolved()
    assert short == long
    assert short["model"]["init_args"]["loss"]["class_path"] == "losslab.losses.DiceLoss"
    torch_loss = CommandLine([*cnn, "--model.loss", "torch.nn.CrossEntropyLoss"], "fit").build().model.loss
    assert type(torch_loss).__module__ == "torch.nn.modules.loss"


def test_no_argument_outlives_the_class_it_was_given_to(cnn: list[str], caplog: pytest.LogCaptureFixture) -> None:
    swapped = CommandLine([*cnn, "--model.loss", "CrossEntropyLoss"], "fit").resolved()
    assert swapped["model"]["init_args"]["loss"]["init_args"]["label_smoothing"] == 0.0  # 0.1 was FocalLoss's
    assert "the arguments of FocalLoss (gamma, label_smoothing) are dropped" in caplog.text
    whole = '{"class_path": "losslab.losses.FocalLoss", "init_args": {"gamma": 3}}'
    replaced = CommandLine([*cnn, f"--model.loss={whole}"], "fit").resolved()
    assert replaced["model"]["init_args"]["loss"]["init_args"]["label_smoothing"] == 0.0
    same = CommandLine([*cnn, "--model.loss", "FocalLoss", "--model.loss.gamma", "3"], "fit").resolved()
    assert same["model"]["init_args"]["loss"]["init_args"]["label_smoothing"] == 0.1
    Path("overlay.yaml").write_text("model: {init_args: {loss: {class_path: losslab.losses.CrossEntropyLoss}}}\n")
    laid_over = CommandLine([*cnn, "--config", "overlay.yaml"], "fit").resolved()
    assert laid_over["model"]["init_args"]["loss"]["init_args"]["label_smoothing"] == 0.0


def test_a_resolved_configuration_is_whole_and_parses_to_itself(cnn: list[str]) -> None:
    command_line = CommandLine(cnn, "fit")
    resolved = command_line.resolved()
    assert resolved["model"]["init_args"]["widths"] == [16, 32, 64]
    assert resolved["data"]["init_args"]["val_size"] is None
    assert resolved["data"]["init_args"]["validation"] == "balanced"
    Path("resolved.yaml").write_text(json.dumps(resolved))
    assert CommandLine(["--config", "resolved.yaml"], "fit").resolved() == resolved
    command_line.parse_config(resolved)
    assert command_line.resolved() == resolved


def test_the_seed_of_the_run_is_the_seed_of_the_data(cnn: list[str]) -> None:
    built = CommandLine([*cnn, "--seed_everything", "7", "--data.source", "embedded"], "fit").build()
    assert built.data.seed == 7
    assert built.data.split_seed == 7


def test_the_split_is_that_of_seed_everything_unless_split_seed_is_given(cnn: list[str]) -> None:
    def split(*tokens: str) -> str:
        data = CommandLine([*cnn, "--data.source", "embedded", *tokens], "fit").build().data
        data.setup("fit")
        return data.hashes["split"]

    seven = split("--seed_everything", "7")
    assert seven == split("--seed_everything", "8", "--data.split_seed", "7")
    assert seven != split("--seed_everything", "8")


def test_a_module_in_the_current_folder_is_found(cnn: list[str]) -> None:
    Path("loss_of_ones_own.py").write_text(
        "from losslab.losses import CrossEntropyLoss\nclass Mine(CrossEntropyLoss):\n    pass\n"
    )
    model = CommandLine([*cnn, "--model.loss", "loss_of_ones_own.Mine"], "fit").build().model
    assert type(model.loss).__name__ == "Mine"
    assert isinstance(model.loss, __import__("losslab").losses.Loss)


def test_a_constructor_that_refuses_is_a_users_mistake(cnn: list[str]) -> None:
    with pytest.raises(UserError, match=r"label_smoothing must be in \[0, 1\), got 1.5"):
        CommandLine([*cnn, "--model.loss.label_smoothing", "1.5"], "fit").build()


def test_no_garbage_is_collected_while_a_command_is_imported_nor_among_what_that_leaves(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "command_of_ones_own.py").write_text("import gc\n\ncollects = gc.isenabled()\n")
    monkeypatch.syspath_prepend(str(own_folder))
    before = gc.get_freeze_count()
    try:
        module = cli._import("command_of_ones_own")
        assert not module.collects
        assert gc.isenabled()
        frozen = gc.get_freeze_count()
        assert frozen > before
        assert cli._import("command_of_ones_own") is module
        assert gc.get_freeze_count() <= frozen  # once, or the garbage of each command would stay
    finally:
        gc.unfreeze()
        sys.modules.pop("command_of_ones_own", None)
