"""A path means what its user means, in every argument of every command: no folder is called "~" or "$DATA"."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonargparse import Namespace
from tiny_digits import TinyDigits

from losslab.cli import main
from losslab.errors import UserError, expand_path
from losslab.run import RUNS, named_folder
from losslab.run.command_line import expand_paths

EXPERIMENT = """\
model: {class_path: losslab.models.MLP, init_args: {hidden: [4]}}
data: {class_path: tiny_digits.TinyDigits, init_args: {batch_size: 100}}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}
"""

STUDY = """\
experiment: EXPERIMENT
arms:
  a: {model.init_args.loss: {class_path: torch.nn.CrossEntropyLoss}}
  b: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
seeds: [0]
"""


@pytest.fixture
def home(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """~ is here, in a folder without anything else; $DATA is here/data, $EMPTY is empty, and there is no $NOWHERE."""
    home = own_folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DATA", str(home / "data"))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    return home


def test_home_and_variables_are_replaced_as_a_shell_does(home: Path) -> None:
    for text, expected in {
        "~": home,
        "~/a": home / "a",
        "$DATA": home / "data",
        "${DATA}x/$DATA": Path(f"{home}/datax/{home}/data"),
        "a/~/b$": Path("a/~/b$"),
        "price 5$ + $ 6": Path("price 5$ + $ 6"),
    }.items():
        assert expand_path(text, "it") == expand_path(Path(text), "it") == expected
        assert expand_path(expected, "it") == expected
    assert expand_path("./~", "it") == Path("./~")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$NOWHERE/a", "has no $NOWHERE"),
        ("$DATA/${NOWHERE}", "has no ${NOWHERE}"),
        ("$EMPTY/a", "has no $EMPTY"),
        ("${DATA:-a}", "has no ${DATA:-a}"),
        ("~no-such-user/a", "there is no user ~no-such-user"),
        ("", "it is empty"),
    ],
)
def test_what_cannot_be_replaced_is_named(home: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        expand_path(text, "it")
    assert str(refusal.value).startswith("it is ")
    assert said in str(refusal.value)


def test_a_file_that_is_there_may_have_such_a_name(home: Path) -> None:
    """A shell's `*.png` finds it."""
    for name in ("$NOWHERE.png", "~no-such-user.png"):
        Path(name).write_bytes(b"")
        assert expand_path(name, "it") == Path(name)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "PATH"],
        ["fit", "--config=PATH"],
        ["fit", "-c", "PATH"],
        ["fit", "--config", "tiny.yaml", "--config", "PATH"],
        ["fit", "--run", "PATH"],
        ["fit", "--config", "tiny.yaml", "--ckpt_path", "PATH/checkpoints/last.ckpt"],
        ["fit", "--config", "tiny.yaml", "--data.root", "PATH"],
        ["fit", "--config", "root.yaml"],
        ["fit", "--config", "tiny.yaml", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "PATH"],
        ["fit", "--config", "logger.yaml"],
        ["fit", "--config", "callback.yaml"],
        *([command, "--run", "PATH"] for command in ("validate", "test", "predict", "export")),
        *([command, "--ckpt_path", "PATH/a.ckpt"] for command in ("validate", "test", "predict", "export")),
        ["predict", "--run", "runs/a", "--images", "a.png", "PATH"],
        ["summary", "--config", "PATH"],
        ["sweep", "--config", "PATH"],
        ["sweep", "--config", "study.yaml"],
        ["sweep", "--config", "study.yaml", "--experiment", "PATH"],
        ["sweep", "--config", "study.yaml", "--experiment", "tiny.yaml", "--data.root=PATH"],
        ["confirm", "PATH"],
        ["report", "PATH"],
        ["report", "--compare", "runs/a", "PATH"],
        ["report", "--compare", "runs/a", "runs/b", "--out", "PATH"],
        ["plot-loss", "FocalLoss", "--out", "PATH"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", ["$NOWHERE/a", "~no-such-user/a"])
def test_each_path_of_each_command_is_refused_in_one_line_if_it_cannot_be_replaced(
    home: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], place: str
) -> None:
    write_files(place)
    before = sorted(home.parent.rglob("*"))
    assert main([word.replace("PATH", place) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert repr(place)[:-1] in error
    assert "set it, or write the path itself" in error
    assert sorted(home.parent.rglob("*")) == before


def write_files(place: str) -> None:
    Path("tiny.yaml").write_text(EXPERIMENT)
    Path("root.yaml").write_text(EXPERIMENT.replace("batch_size: 100", f"root: {place}"))
    logger = f"[{{class_path: CSVLogger, init_args: {{save_dir: {place}}}}}]"
    Path("logger.yaml").write_text(EXPERIMENT.replace("max_epochs: 1", f"logger: {logger}"))
    callback = f"[{{class_path: ModelCheckpoint, init_args: {{dirpath: {place}}}}}]"
    Path("callback.yaml").write_text(EXPERIMENT.replace("max_epochs: 1", f"callbacks: {callback}"))
    Path("study.yaml").write_text(STUDY.replace("EXPERIMENT", f"{place}/tiny.yaml"))


def test_paths_are_replaced_from_the_study_to_the_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files("~")
    shutil.move("tiny.yaml", home / "tiny.yaml")
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=$DATA/logs", "--data.root=~/none"]
    assert main(["sweep", "--config=study.yaml", *logger]) == 0
    assert main(["report", "--compare", "$HOME/../runs/study", "runs/study", "--out=~/page.html"]) == 0
    assert main(["plot-loss", "FocalLoss", "--out", "$DATA/focal.html"]) == 0
    assert main(["fit", "--config=~/tiny.yaml", *logger]) == 0
    assert main(["test", "--run=$HOME/../runs/tiny"]) == 0
    assert (home / "page.html").is_file()
    assert sorted(path.name for path in (home / "data").iterdir()) == ["focal.html", "logs"]
    assert len(list((home / "data" / "logs").rglob("metrics.csv"))) == 4  # two of the study, the fit, the test
    assert not [path for path in home.parent.rglob("*") if path.name.startswith(("~", "$"))]
    (run,) = Path("runs/tiny").iterdir()
    assert "save_dir: $DATA/logs" in (run / "config.yaml").read_text()  # elsewhere, $DATA is another folder


def test_a_data_modules_root_is_replaced_in_python_too(home: Path) -> None:
    assert TinyDigits(root="~/a").root == home / "a"
    with pytest.raises(UserError, match=r"^data\.root is empty"):
        TinyDigits(root="")


def test_only_arguments_that_are_paths_are_replaced(home: Path) -> None:
    """A name or an address may have a $ in it."""
    arguments = Namespace(save_dir="s3://$NOWHERE/a", name="$NOWHERE", prefix="~")
    config = Namespace(logger=[Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=arguments)])
    before = config.clone()
    expand_paths(config)
    assert config == before


def test_a_name_is_that_of_a_folder_under_runs() -> None:
    assert named_folder("gamma-2") == RUNS / "gamma-2"
    for name in ("", ".", "..", "../a", "/a", "a/b", "~", "~/a", "$NOWHERE"):
        with pytest.raises(UserError, match=r"^--name must be the name of a folder in runs/"):
            named_folder(name)


@pytest.mark.parametrize("command", [["fit", "--config", "tiny.yaml"], ["sweep", "--config", "study.yaml"]])
def test_a_name_that_is_a_path_is_refused(
    own_folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    write_files("..")
    Path("study.yaml").write_text(STUDY.replace("EXPERIMENT", "tiny.yaml"))
    assert main([*command, "--name", "../elsewhere"]) == 2
    assert "--name must be the name of a folder in runs/" in capsys.readouterr().err
    assert not (own_folder / "runs").exists()
    assert not (own_folder.parent / "elsewhere").exists()
