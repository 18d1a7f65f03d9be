"""The repository is as its README and its design say."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from losslab.cli import main
from losslab.report import read_confirmation

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "losslab"
ROOMS = ("data", "losses", "metrics", "models", "run", "report", "sweep")
README = (REPOSITORY / "README.md").read_text()


def imported_modules(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room: str) -> None:
    leaves = ("data", "losses", "metrics")
    above = (room,) if room in leaves else ROOMS[: ROOMS.index(room) + 1]
    allowed = {"losslab.errors", *(f"losslab.{name}" for name in above)}
    for file in (PACKAGE / room).glob("*.py"):
        ours = {".".join(name.split(".")[:2]) for name in imported_modules(file) if name.startswith("losslab")}
        assert ours - {"losslab"} <= allowed, file


@pytest.mark.parametrize("room", ["data", "losses", "metrics", "models"])
def test_the_rooms_of_the_training_step_know_no_tracker_and_no_sweeper(room: str) -> None:
    for file in (PACKAGE / room).glob("*.py"):
        assert not {name.split(".")[0] for name in imported_modules(file)} & {"wandb", "optuna"}, file


def test_losses_do_not_import_lightning_and_help_imports_neither_it_nor_torch() -> None:
    for code in (
        "import losslab.losses, sys; assert 'lightning' not in sys.modules",
        "from losslab.cli import main; import sys; main(['--help']); assert 'torch' not in sys.modules",
    ):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_has_a_phrase_for_every_file() -> None:
    tree = README.split("```text\n")[1].split("```")[0]
    listed: list[str] = []
    room = ""
    for line in tree.splitlines():
        entry = re.match(r"^([├└│─ ]*)(\S+)(.*)$", line)
        assert entry is not None
        marks, name, phrase = entry.groups()
        if name.endswith("/"):
            room = name
        elif name.endswith(".py"):
            assert phrase.strip(), f"no phrase for {name}"
            listed.append(f"{room}{name}" if len(marks) > 4 else name)
    files = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    assert sorted(listed) == sorted(files)


def test_no_file_is_longer_than_250_lines() -> None:
    assert {file.name for file in PACKAGE.rglob("*.py") if len(file.read_text().splitlines()) > 250} == set()


def test_the_test_folders_mirror_the_rooms() -> None:
    assert {room for room in ROOMS if not list((REPOSITORY / "tests" / room).glob("test_*.py"))} == set()


def test_make_help_lists_every_target_with_its_meaning() -> None:
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert all(re.search(rf"make {target} +\S", shown) for target in targets)
    assert len(targets) <= 21


def test_the_readmes_own_loss_network_and_data_work(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files that the README shows and runs the commands below them, with fewer images and epochs."""
    section = README.split("## Add a loss, a network, a data set")[1].split("\n## ")[0]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        (own_folder / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)  # type: ignore[index]
    for folder in ("experiments", "sweeps"):
        (own_folder / folder).symlink_to(REPOSITORY / folder)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        _, *words = command.split()
        short = [] if words[0] == "test" else ["--trainer.max_epochs", "2"]
        digits = ["--data", "tiny_digits.TinyDigits"]
        if "--data" in words:
            at = words.index("--data")
            short += digits if words[at + 1] == "MNISTDataModule" else []
        elif words[0] == "fit":
            short += digits
        assert main([*words, *short]) == 0, command
    assert (own_folder / "runs" / "stripes-gamma" / "best.yaml").exists()
    assert len(list((own_folder / "runs" / "stripes-gamma" / "results").glob("*/*.json"))) == 12


@pytest.mark.slow
def test_the_readmes_own_study_ends_with_a_page_of_both_stages(own_folder: Path) -> None:
    """Writes the files of "Your own study" and runs its commands as they stand, on the embedded images."""
    section = README.split("## Your own study")[1].split("\n## ")[0]
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL):
        (own_folder / re.match(r"# ([\w.]+)\n", block)[1]).write_text(block)  # type: ignore[index]
    (own_folder / "experiments").symlink_to(REPOSITORY / "experiments")
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    for command in commands.splitlines():
        _, *words = shlex.split(command, comments=True)
        assert main(words) == 0, command
    study = own_folder / "runs" / "symmetric"
    reads = (own_folder / "runs" / "test_reads.jsonl").read_text().splitlines()
    assert len(reads) == len(list((study / "confirm" / "test" / "results").glob("*/*.json"))) == 20
    page = (study / "report.html").read_text()
    assert "test split of mnist-5k" in page[page.index('id="confirmation"') : page.index('id="verdicts"')]
    confirmation = read_confirmation(study / "confirm")
    assert confirmation is not None
    assert confirmation.summary.family is not None
    assert {verdict.setting.split()[0] for verdict in confirmation.summary.family.verdicts} == {"symmetric"}
    assert confirmation.summary.family.seeds == 10
