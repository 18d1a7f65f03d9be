"""jsonargparse's trees of errors, told in one line with the nearest valid name."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from losslab.data import ImageDataModule
from losslab.losses import ClassWeighting, Loss
from losslab.models import Classifier


def one_line(message: str, options: Iterable[str]) -> str:
    """What is wrong with a command line or an experiment file, and what may have been meant.

    Args:
        message: the parser's own message: for nested objects a tree, whose innermost branch is the cause.
        options: all names that the parser knows, such as "trainer.max_epochs".
    """
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        option = found[1].partition("=")[0]
        return f"unknown option {option}{_nearest(option.lstrip('-'), options, '--')}"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return f"unknown key '{found[1]}.{found[2]}'{_nearest(f'{found[1]}.{found[2]}', options)}"
    if found := re.search(r"the following arguments are required: (.+)", message):
        return f"missing: {found[1]}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        return f"unknown class '{found[1]}.{found[2]}'{_nearest(found[2], _public_names(found[1]))}"
    if found := re.search(r"No module named '([^']+)'", message):
        return f"there is no module '{found[1]}' to take a class from; modules are looked for in this folder, too"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        hint = _nearest(found[1], _class_names()) or "; write a class of one's own as my_module.MyClass"
        return f"unknown class '{found[1]}'{hint}"
    if found := re.search(r"Option '([^']+)' is not accepted(?:.*class_path='([^']+)')?", message):
        before = re.findall(r"given class_path '([^']+)'", message[: found.start()])
        owner = found[2] or (before[-1] if before else None)
        if owner is not None:
            return f"{owner.rsplit('.', 1)[-1]} has no argument '{found[1]}'{_nearest(found[1], _arguments(owner))}"
        key = found[1].removesuffix(".class_path")
        return f"unknown key '{key}'{_nearest(key, {*options, *(option.split('.')[0] for option in options)})}"
    if found := re.search(r"^\s+- (?!Expected|Problem|Does not|Type)(.+)$", message, re.MULTILINE):
        return found[1]  # a constructor's own words
    if found := re.search(r'Parser key "([^"]+)":\s+Expected a typing.Literal\[([^\]]+)\]. Got value: (.*)', message):
        return f"{_path_to(found.start(), message)}{found[1]} must be one of {found[2]}, got '{found[3]}'"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    expected = [_plain(name) for name in re.findall(r"Expected an? <class '([^']+)'>", message)]
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if keys and expected and value:
        types = " or ".join(dict.fromkeys(expected[-2:] if "null" in expected[-2:] else expected[-1:]))
        return f"{'.'.join(dict.fromkeys(keys))} must be {types}, got '{value[1]}'"
    return " ".join(message.split())


def _path_to(position: int, message: str) -> str:
    """The keys around the one at this position: "model.loss."."""
    return "".join(f"{key}." for key in dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message[:position])))


def _plain(type_name: str) -> str:
    return {"NoneType": "null"}.get(type_name, type_name.rsplit(".", 1)[-1].lower())


def _nearest(name: str, candidates: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, sorted(set(candidates)), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _class_names() -> set[str]:
    """Short names: of the models, losses, class weightings and data modules that are imported."""
    found: set[Any] = set()
    waiting: list[Any] = [Loss, ClassWeighting, Classifier, ImageDataModule]
    while waiting:
        found.add(here := waiting.pop())
        waiting += here.__subclasses__()
    return {each.__name__ for each in found if not inspect.isabstract(each)}


def _public_names(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _arguments(class_path: str) -> set[str]:
    """Argument names of a class, with those that it hands on to its bases."""
    module, _, name = class_path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    constructors = [vars(base)["__init__"] for base in owner.__mro__ if "__init__" in vars(base) and base is not object]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return names - {"self", "args", "kwargs"}
