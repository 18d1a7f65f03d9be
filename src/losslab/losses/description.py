"""A loss as plain values: what a checkpoint holds to build it again."""

import inspect
import sys
from typing import Any

from torch import Tensor, nn

from losslab.losses.class_weighting import ClassWeighting
from losslab.losses.loss import Loss

FACE = "losslab.losses"


def describe_loss(loss: Any) -> dict[str, Any] | None:
    """Return {"class_path": ..., "init_args": {...}} of a loss, with the hyper-parameters that it has now.

    None for any other object: torch's, or a class of your own, also one that derives from a loss of losslab.
    """
    try:
        return _describe(loss) if isinstance(loss, Loss) else None
    except TypeError:
        return None


def build_loss(description: dict[str, Any]) -> Loss:
    """Return the loss that `describe_loss` has described. Only classes of losslab.losses are built.

    Raises:
        ValueError: there is no such class, or it rejects its arguments.
    """
    loss = _build(description)
    if not isinstance(loss, Loss):
        raise ValueError(f"a loss must be described as a class of {FACE} with its arguments, got {description!r}")
    return loss


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple | nn.ModuleList):
        return [_describe(part) for part in value]
    name = type(value).__name__
    if _class_of(f"{FACE}.{name}") is not type(value):
        raise TypeError(f"{value!r} is no object of {FACE}")
    arguments = {argument: getattr(value, argument) for argument in constructor_arguments(type(value))}
    if weighting := getattr(value, "weighting", None):  # its weights belong to the data of the training
        arguments["class_weights"] = weighting
    return {"class_path": f"{FACE}.{name}", "init_args": {key: _describe(part) for key, part in arguments.items()}}


def constructor_arguments(owner: type) -> dict[str, inspect.Parameter]:
    """Return a class's constructor arguments by name, with those of its bases as far as it takes **kwargs for them."""
    found: dict[str, inspect.Parameter] = {}
    for constructor in (vars(base)["__init__"] for base in owner.__mro__ if "__init__" in vars(base)):
        _, *arguments = inspect.signature(constructor).parameters.values()
        for each in arguments:
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                found.setdefault(each.name, each)
        if not any(each.kind is each.VAR_KEYWORD for each in arguments):
            break
    return found


def _build(value: Any) -> Any:
    if isinstance(value, list):
        return [_build(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = _class_of(value.get("class_path"))
    if found is None:
        raise ValueError(f"there is no class {value.get('class_path')!r} in {FACE}")
    return found(**{name: _build(part) for name, part in value["init_args"].items()})


def _class_of(class_path: Any) -> type | None:
    """Return the loss or class weighting of this path; None where losslab.losses has none."""
    module, _, name = str(class_path).rpartition(".")
    found = vars(sys.modules[FACE]).get(name) if module == FACE else None
    return found if isinstance(found, type) and issubclass(found, Loss | ClassWeighting) else None
