"""The README and docs/: their code blocks run, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from code_blocks import code_blocks, commands, run, write_files

from losslab.cli import COMMANDS, main
from losslab.report import read_confirmation
from losslab.run import CommandLine

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))

own_readme = pytest.mark.skipif(not README.startswith("# losslab\n"), reason="the README is not losslab's own")


def section(markdown: str, heading: str) -> str:
    """The text under a heading, to the next one of its level."""
    level = heading.split(" ")[0]
    assert f"\n{heading}\n" in markdown, f"there is no heading {heading!r}"
    return markdown.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]


@pytest.fixture
def folder(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with experiments/ and sweeps/; workers find tiny_digits."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    for name in ("experiments", "sweeps"):
        (own_folder / name).symlink_to(REPOSITORY / name)
    return own_folder


@own_readme
def test_the_readmes_own_loss_network_and_data_work(folder: Path) -> None:
    """Writes the files that the README shows and runs the commands below them, with fewer images and epochs."""
    shown = section(README, "## Add a loss, a network, a data set")
    write_files(shown, folder)
    found = commands(shown)
    assert len(found) >= 5
    for words in found:
        run(words)
    assert (folder / "runs" / "stripes-gamma" / "best.yaml").exists()
    assert len(list((folder / "runs" / "stripes-gamma" / "results").glob("*/*.json"))) == 8


@own_readme
def test_the_readmes_commands_of_one_training_work(folder: Path) -> None:
    found = commands(section(README, "## One training"))
    assert len(found) >= 7
    for words in found:
        run(words)


@own_readme
def test_the_readme_follows_one_image_through_functions_that_are_there() -> None:
    shown = section(README, "## Follow one image")
    stations = re.findall(r"^\d+\. .*?`(\w+/\w+\.py)`, `([\w.]+)`", shown, re.MULTILINE)
    assert len(stations) == 10
    for file, name in stations:
        text = (REPOSITORY / "src" / "losslab" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def|class) {part}\b", text, re.MULTILINE), f"{file} has no {name}"


STUDY_OF_YOUR_OWN = "## A study of your own"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_code_blocks_of_a_page_run(page: Path, folder: Path) -> None:
    markdown = page.read_text()
    if STUDY_OF_YOUR_OWN in markdown:  # it runs as it stands in a test of its own
        markdown = markdown.replace(section(markdown, STUDY_OF_YOUR_OWN), "")
    write_files(markdown, folder)
    for block in code_blocks(markdown, "python"):
        exec(compile(block, page.name, "exec"), {"__name__": page.stem})
    for words in commands(markdown):
        run(words)
    for words in commands(markdown, "sh"):  # of several devices or machines: they are parsed only
        assert words[0] in COMMANDS
        if words[0] == "fit":
            CommandLine(words[1:], "losslab fit")


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *DOCS], ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
def test_a_study_of_your_own_ends_with_a_page_of_both_stages(folder: Path) -> None:
    """Writes the files of the guide and runs its commands as they stand, on the embedded images."""
    shown = section((REPOSITORY / "docs" / "own-parts.md").read_text(), STUDY_OF_YOUR_OWN)
    write_files(shown, folder)
    (block,) = code_blocks(shown, "bash")
    for command in block.splitlines():
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
    study = folder / "runs" / "symmetric"
    reads = (folder / "runs" / "test_reads.jsonl").read_text().splitlines()
    assert len(reads) == len(list((study / "confirm" / "test" / "results").glob("*/*.json"))) == 16
    page = (study / "report.html").read_text()
    assert "test split of mnist-5k" in page[page.index('id="confirmation"') : page.index('id="verdicts"')]
    confirmation = read_confirmation(study / "confirm")
    assert confirmation is not None
    assert confirmation.summary.family is not None
    assert {verdict.setting for verdict in confirmation.summary.family.verdicts} == {"symmetric"}
    assert confirmation.summary.family.seeds == 8
    assert all(verdict.decidable for verdict in confirmation.summary.family.verdicts)
