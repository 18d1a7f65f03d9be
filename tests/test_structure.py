"""The package is built as its rooms' `__init__`s say. A module of one's own breaks none of these tests."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

from losslab.cli import COMMANDS

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "losslab"
ROOMS = ("data", "losses", "metrics", "models", "run", "study", "report", "sweep")
LEAVES = ("data", "losses", "metrics")
MODULES = sorted(str(file.relative_to(PACKAGE).with_suffix("")) for file in PACKAGE.rglob("*.py"))
"""Such as "losses/focal"."""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def phrases(room: str) -> dict[str, str]:
    """The phrase of each module in the room's docstring, written as `name: phrase`."""
    docstring = ast.get_docstring(tree(f"{room}/__init__")) or ""
    return dict(re.findall(r"^([a-z_]+): (\S.*)$", docstring, re.MULTILINE))


OWN = [f"{room}/{name}" for room in ROOMS for name in phrases(room)] + ["cli", "errors", "__main__"]
"""losslab's modules; a user may have others beside them."""


def imports(module: str) -> set[str]:
    """The modules of losslab that this one imports, such as "losses/focal"; a room stands for its `__init__`."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")[1:] if name.split(".")[0] == "losslab" else []
            for length in (2, 1):
                path = "/".join(parts[:length])
                if length <= len(parts) and path in MODULES:
                    found.add(path)
                    break
                if length == 1 and parts and f"{path}/__init__" in MODULES:
                    found.add(f"{path}/__init__")
    return found


def uses(module: str) -> set[str]:
    """`imports`, and the modules behind the names that this one takes from the faces of rooms."""
    found = imports(module)
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.removeprefix("losslab.") in ROOMS:
            face = tree(f"{node.module.removeprefix('losslab.')}/__init__")
            taken = {alias.name for alias in node.names}
            for line in ast.walk(face):
                if isinstance(line, ast.ImportFrom) and line.module and taken & {alias.name for alias in line.names}:
                    found.add(line.module.removeprefix("losslab.").replace(".", "/"))
    return found


def room_of(module: str) -> str:
    return module.split("/")[0] if "/" in module else ""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it_and_through_their_faces(room: str) -> None:
    above = set() if room in LEAVES else set(ROOMS[: ROOMS.index(room)])
    for module in [*(name for name in OWN if room_of(name) == room), f"{room}/__init__"]:
        for other in imports(module):
            if room_of(other) != room:
                assert other == "errors" or (room_of(other) in above and other.endswith("/__init__")), (module, other)


def test_no_imports_go_round_in_a_circle() -> None:
    """A room's `__init__` imports its modules, which do not import it."""
    arrows = {module: imports(module) - {module} for module in OWN}
    while arrows:
        ends = {module for module, others in arrows.items() if not others & arrows.keys()}
        assert ends, f"these import each other: {sorted(arrows)}"
        arrows = {module: others for module, others in arrows.items() if module not in ends}


@pytest.mark.parametrize("room", ["data", "losses", "metrics", "models"])
def test_the_rooms_of_the_training_step_know_no_tracker_and_no_sweeper(room: str) -> None:
    for file in (PACKAGE / room).glob("*.py"):
        assert not re.findall(r"^\s*(?:import|from) (?:wandb|optuna)\b", file.read_text(), re.MULTILINE), file


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import losslab.losses", "lightning"),
        ("from losslab.cli import main; main(['--help'])", "torch"),
        ("from losslab.cli import main; main(['runs'])", "torch"),
    ],
)
def test_what_is_quick_to_start_imports_nothing_slow(code: str, unwanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; assert {unwanted!r} not in sys.modules"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_docstring_has_a_phrase_for_each_of_its_modules(room: str) -> None:
    """All that the room's other modules or its commands import; a file of one's own needs none."""
    named = phrases(room)
    assert named
    assert {f"{room}/{name}" for name in named} <= set(MODULES)
    used = {other for module in OWN for other in imports(module)}
    exported = imports(f"{room}/__init__")
    assert {m for m in used | exported if room_of(m) == room and not m.endswith("__init__")} <= {
        f"{room}/{name}" for name in named
    }


def code_lines(module: str) -> int:
    """Lines that hold code, not a comment or a docstring."""
    source = (PACKAGE / f"{module}.py").read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines |= set(range(token.start[0], token.end[0] + 1)) if token.string else set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_no_module_is_a_fragment() -> None:
    """A module is a command, a plug-in, imported by two others, or long enough to be looked up by its name."""
    commands = {module.replace(".", "/") for module, _ in COMMANDS.values()}
    plugins = {m for room in ("data", "losses", "models") for m in imports(f"{room}/__init__") if "/" in m}
    importers = {name: [module for module in OWN if name in uses(module)] for name in OWN}
    fragments = [
        name
        for name in set(OWN) - commands - plugins - {"errors", "__main__"}
        if len(importers[name]) < 2 and code_lines(name) < 40
    ]
    assert sorted(fragments) == []


def test_no_module_is_longer_than_400_lines_and_a_long_class_says_why() -> None:
    for module in OWN:
        assert len((PACKAGE / f"{module}.py").read_text().splitlines()) <= 400, module
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > 250:
                assert "long because" in (ast.get_docstring(node) or ""), f"{module}: {node.name}"


def test_the_package_stays_small() -> None:
    """When a feature wants more, look for the smaller idea, or for the library that has it."""
    assert len(OWN) <= 90
    lower = [name for name in OWN if room_of(name) in ("data", "losses", "metrics", "models", "run")]
    assert sum(map(code_lines, lower)) <= 4700
    assert sum(map(code_lines, set(OWN) - set(lower))) <= 6150


def test_the_test_folders_mirror_the_rooms() -> None:
    assert {room for room in ROOMS if not list((REPOSITORY / "tests" / room).glob("test_*.py"))} == set()


def test_make_help_lists_every_target_with_its_meaning() -> None:
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert all(re.search(rf"make {target} +\S", shown) for target in targets)
    assert len(re.findall("^  make ", shown, re.MULTILINE)) <= 16
    studies = (REPOSITORY / "experiments" / "results" / "Makefile").read_text()
    (line,) = re.findall(r"make results-% .*", shown)
    names = set(re.findall(r"^results-(\S+):", studies, re.MULTILINE))
    assert names == set(re.findall(r"[\w-]+", line.partition("% is ")[2])) - {"or"}
