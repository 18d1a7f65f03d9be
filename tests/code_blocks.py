"""The code blocks of a Markdown page, written and run as its reader would."""

import re
import shlex
from pathlib import Path

import pytest

from losslab.cli import main

TINY = ["--data", "tiny_digits.TinyDigits"]
"""Stands for MNIST, so that a block takes a second."""


def code_blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


def write_files(markdown: str, folder: Path) -> None:
    """Write each block that begins with its file's name, `# my_loss.py`, under that name."""
    for language in ("python", "yaml"):
        for block in code_blocks(markdown, language):
            if name := re.match(r"# ([\w.]+)\n", block):
                (folder / name[1]).write_text(block)


def commands(markdown: str, language: str = "bash") -> list[list[str]]:
    """The words after `losslab` of each of the page's losslab commands, however it is started."""
    lines = [line for block in code_blocks(markdown, language) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("losslab") + 1 :] for line in words if "losslab" in line]


def run(words: list[str]) -> None:
    """Run a command with fewer images and epochs."""
    short: list[str] = []
    if words[0] in ("fit", "sweep"):
        short = ["--trainer.max_epochs", "2"]
        own_data = "--data" in words and words[words.index("--data") + 1] != "MNISTDataModule"
        short += [] if own_data else TINY
    if any(word.endswith("help") for word in words):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0, words
    else:
        assert main([*words, *short]) == 0, words
