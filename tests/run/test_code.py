"""The identity of code changes with what a class does, whatever file that is written in, and with nothing else."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from new_process import forget

from losslab.run import CommandLine, changed_code, code, code_digests

MINE = '''\
"""A module."""
import math
import torch
import helpers
from helpers import scaled as by, Mixin
from tools import *
from losslab.losses import Loss

ALPHA = 3  # a constant
TABLE = {}
TABLE["x"] = 1
try:
    import missing_package
except ImportError:
    missing_package = None
if ALPHA > 2:
    POWER = 2
else:
    POWER = 1
WIDE = False
if WIDE:
    pass
else:
    SHIFT = 0


def plain(value):
    return value


@plain
class Base(Loss):
    def per_image(self, logits, target):
        return by(logits)


class MyLoss(Mixin, Base):
    """Its docstring."""

    beta: float = 0.5
    """An attribute's."""

    def forward(self, logits, target):
        from lazily import late

        return helpers.power(logits, POWER) * ALPHA * TABLE["x"] * starred(1) * FACTOR * late() + math.pi + SHIFT


class Other:
    def forward(self):
        return helpers.unused()


if __name__ == "__main__":
    MyLoss()
'''
HELPERS = """\
def scaled(x):
    return inner(x)


def inner(x):
    return 2 * x


power = lambda x, y: x**y


class Mixin:
    pass


def unused():
    return 1
"""
FILES = {
    "mine.py": MINE,
    "helpers.py": HELPERS,
    "tools.py": "FACTOR = 1\n\n\ndef starred(x):\n    return x\n",
    "lazily.py": "def late():\n    return 1\n",
    "pack/__init__.py": "import importlib\n\nfrom .part import PartLoss\n\n\n"
    "def __getattr__(name):\n    return getattr(importlib.import_module('pack.lazy'), name)\n",
    "pack/lazy.py": "class LazyLoss:\n    scale = 1\n",
    "pack/part.py": "from . import more as again\n\n\nclass PartLoss:\n    scale = again.SCALE\n",
    "pack/more.py": "SCALE = 1\nOTHER = 2\n",
}

OWN = {"mine", "helpers", "tools", "lazily", "pack"}


@pytest.fixture(autouse=True)
def own_modules(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(own_folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    forget(*OWN)


def digest(name: str, *changes: tuple[str, str, str]) -> str:
    """The digest of a new process, after these changes of files: (file, before, after)."""
    forget(*OWN)
    for file, content in FILES.items():
        for changed, before, after in changes:
            if file == changed:
                assert before in content
                content = content.replace(before, after)
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(content)
    importlib.import_module(name.rpartition(".")[0])
    return code_digests({"model": {"class_path": name, "init_args": {"text": "val.loss"}}})[name]


CHANGES = {
    "the class": ("mine.py", "POWER) *", "POWER) +"),
    "a class attribute": ("mine.py", "beta: float = 0.5", "beta: float = 0.6"),
    "a base": ("mine.py", "return by(logits)", "return -by(logits)"),
    "a base in another file": ("helpers.py", "    pass", "    gamma = 2"),
    "a decorator": ("mine.py", "return value", "return [value][0]"),
    "a constant": ("mine.py", "ALPHA = 3", "ALPHA = 4"),
    "a constant under a condition": ("mine.py", "POWER = 2", "POWER = 3"),
    "a condition of what is bound otherwise": ("mine.py", "WIDE = False", "WIDE = 0"),
    "a constant imported by *": ("tools.py", "FACTOR = 1", "FACTOR = 2"),
    "a table's entry": ("mine.py", '["x"] = 1', '["x"] = 2'),
    "a function imported under another name": ("helpers.py", "return inner(x)", "return inner(inner(x))"),
    "a function that a function calls": ("helpers.py", "2 * x", "3 * x"),
    "a lambda of an imported module": ("helpers.py", "x**y", "x**-y"),
    "a function imported by *": ("tools.py", "return x", "return 2 * x"),
    "a function imported within a function": ("lazily.py", "return 1", "return 2"),
}

NO_CHANGES = {
    "a comment": ("mine.py", "# a constant", "# three"),
    "a docstring": ("mine.py", "Its docstring.", "Another one."),
    "an attribute's docstring": ("mine.py", "An attribute's.", "The beta."),
    "the layout": ("mine.py", "POWER = 1", "POWER = (\n        1\n    )"),
    "another class of the file": ("mine.py", "helpers.unused()", "2"),
    "a function that is not used": ("helpers.py", "return 1", "return 2"),
    "what is run as a script only": ("mine.py", "    MyLoss()", "    print(MyLoss())"),
    "the type of an argument": ("mine.py", "forward(self, logits,", 'forward(self, logits: "Other",'),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_class_does_is_its_identity(change: tuple[str, str, str]) -> None:
    assert digest("mine.MyLoss") != digest("mine.MyLoss", change)


@pytest.mark.parametrize("change", list(NO_CHANGES.values())[:-1], ids=list(NO_CHANGES)[:-1])
def test_nothing_else_is(change: tuple[str, str, str]) -> None:
    assert digest("mine.MyLoss") == digest("mine.MyLoss", change)


def test_a_class_that_only_a_type_names_does_not_count() -> None:
    typed = NO_CHANGES["the type of an argument"]
    assert digest("mine.MyLoss", typed) == digest("mine.MyLoss", typed, NO_CHANGES["another class of the file"])


def test_a_class_is_found_through_its_packages_face_and_relative_imports() -> None:
    before = digest("pack.PartLoss")
    assert digest("pack.PartLoss", ("pack/more.py", "SCALE = 1", "SCALE = 2")) != before
    assert digest("pack.PartLoss", ("pack/part.py", "again.SCALE", "-again.SCALE")) != before
    assert digest("pack.PartLoss", ("pack/more.py", "OTHER = 2", "OTHER = 3")) == before


def test_a_class_that_a_modules_getattr_returns_is_found_where_it_is_written() -> None:
    assert digest("pack.LazyLoss", ("pack/lazy.py", "scale = 1", "scale = 2")) != digest("pack.LazyLoss")


def test_an_edit_after_the_first_look_is_not_what_the_process_runs() -> None:
    before = digest("mine.MyLoss")
    Path("mine.py").write_text(MINE.replace("ALPHA = 3", "ALPHA = 4"))
    assert code_digests({"loss": "mine.MyLoss"}) == {"mine.MyLoss": before}
    forget(*OWN)
    importlib.import_module("mine")
    assert code_digests({"loss": "mine.MyLoss"}) != {"mine.MyLoss": before}


def test_the_sources_are_read_when_a_command_line_is_parsed(tiny_mlp: list[str]) -> None:
    """A training may begin minutes later, after a download; the classes are those that were imported."""
    before = digest("mine.MyLoss")
    forget(*OWN)
    config = CommandLine([*tiny_mlp, "--model.loss", "mine.MyLoss"], "").resolved()
    Path("mine.py").write_text(MINE.replace("ALPHA = 3", "ALPHA = 4"))
    assert code_digests(config)["mine.MyLoss"] == before


def test_installed_packages_have_versions_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    digest("mine.MyLoss")
    config = {"optimizer": {"class_path": "torch.optim.Adam"}, "loss": "losslab.losses.FocalLoss", "file": "mine.yaml"}
    assert list(code_digests(config)) == ["losslab.losses.FocalLoss"]
    is_own = code._source

    def installed(module: str) -> Any:
        return None if module.startswith("losslab") else is_own(module)

    versions = []
    with monkeypatch.context() as patch:
        patch.setattr(code, "_source", installed)
        for version in ("1.0", "1.0", "2.0"):
            patch.setattr("importlib.metadata.version", lambda package, version=version: version)
            code._digest.cache_clear()
            code._definition.cache_clear()
            versions.append(code_digests(config | {"other": "mine.MyLoss", "third": "mine.Other"}))
    assert versions[0] == versions[1]
    assert changed_code(versions[0], versions[2]) == ["losslab.losses.FocalLoss", "mine.MyLoss"]


def test_what_changes_no_result_does_not_count() -> None:
    digest("mine.MyLoss")
    assert code_digests({"trainer": {"logger": [{"class_path": "mine.MyLoss"}]}}) == {}
    callbacks = {"trainer": {"callbacks": [{"class_path": "mine.MyLoss"}]}}
    assert list(code_digests(callbacks)) == ["mine.MyLoss"]
