"""The operations of a network's forward as a torch.fx graph, if that graph says all that the forward does."""

import contextlib
import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from losslab.sweep.eligibility import HOOKS, network_attributes

IN_PLACE: dict[Any, Callable[[Any, Any], Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub,
    operator.imul: operator.mul, operator.itruediv: operator.truediv,
}  # fmt: skip
"""Operators that overwrite their first argument, and what they compute."""

MAY_ALIAS = {nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, F.dropout, F.dropout2d, torch.flatten, "flatten"}
"""What may return its argument itself or a view of it, among what losslab.sweep.fusion translates."""

HIDDEN = ("loss", "_trainer")
"""Attributes of a Classifier that differ between members or steps."""


class NoTranslationError(Exception):
    """Something in a network has no translation; the message names it."""


@contextlib.contextmanager
def in_mode(member: nn.Module, training: bool) -> Iterator[None]:
    """Put a model into a mode; then give all of its modules the attributes that they had."""
    before = [(vars(module), dict(vars(module))) for module in member.modules()]
    try:
        member.train(training)
        yield
    finally:
        for attributes, former in before:
            attributes.clear()
            attributes.update(former)


def forward_graph(member: nn.Module) -> fx.Graph:
    """Return the graph of a Classifier's forward in its present mode; to be called `in_mode`.

    What is Python in a forward becomes a constant of the graph, so all that could make it differ between members or
    steps is refused. An operation in place may be computed out of place: where that is not the same, it is refused.

    Raises:
        NoTranslationError: the forward cannot be traced; or it reads its loss or Trainer, changes an attribute, draws
            random numbers, or switches gradients or autocast; or a module has hooks or a forward of its own; or a value
            that is read again is overwritten.
    """
    name = type(member).__name__
    _require_plain(member)
    attributes, own = network_attributes(member), {key: vars(member)[key] for key in HIDDEN if key in vars(member)}
    drawn = _random_numbers()
    try:
        with torch.enable_grad():
            graph = _Tracer().trace(member)
    except NoTranslationError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NoTranslationError(f"{name}.forward cannot be traced: {reason}") from error
    finally:
        now = _random_numbers()
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])
    if repr(now[:2]) != repr(drawn[:2]) or not now[2].equal(drawn[2]):
        raise NoTranslationError(f"{name}.forward draws random numbers, which has no translation")
    for key in HIDDEN:
        vars(member).pop(key, None)
    vars(member).update(own)
    after = network_attributes(member)
    if changed := sorted(key for key in {*attributes, *after} if attributes.get(key) != after.get(key)):
        raise NoTranslationError(f"{name}.forward changes {', '.join(changed)}, which has no translation")
    for node in graph.nodes:
        if _is_in_place(node, member):
            _require_sole_use(node, member)
    return graph


def called(node: Any) -> str:
    """Return the name of what a node calls or reads."""
    if not isinstance(node, fx.Node):
        return repr(node)
    return f"Tensor.{node.target}" if node.op == "call_method" else str(getattr(node.target, "__name__", node.target))


class _Proxy(fx.Proxy):
    """Records `x += y` as that, which torch.fx records as `x = x + y`."""


def _recorder(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in IN_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _recorder(_function))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # or float(buffer) would be a constant

    def __init__(self) -> None:
        super().__init__()
        self._modes = _modes()

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        for name in HIDDEN:  # only now: until here fx looks at all attributes
            vars(self.root)[name] = _hidden(f"{type(self.root).__name__}.forward reads {name.strip('_')}")
        return arguments

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        _require_plain(m)
        return super().call_module(m, forward, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:  # a graph has no contexts
            raise NoTranslationError("a forward that switches gradients or autocast has no translation")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _modes() -> tuple[bool, ...]:
    return (torch.is_grad_enabled(), *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")))


def _require_plain(module: nn.Module) -> None:
    name = type(module).__name__
    if any(getattr(module, hooks) for hooks in HOOKS):
        raise NoTranslationError(f"{name} with hooks has no translation")
    if "forward" in vars(module):
        raise NoTranslationError(f"{name} with a forward of its own has no translation")


def _hidden(message: str) -> Any:
    def refuse(*_: Any) -> Any:
        raise NoTranslationError(f"{message}, which has no translation")

    return type("Hidden", (), dict.fromkeys(("__getattribute__", "__call__", "__bool__", "__eq__"), refuse))()


def _random_numbers() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _is_in_place(node: fx.Node, member: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(member.get_submodule(str(node.target)), "inplace", False)
    return node.target in IN_PLACE or node.target == "relu_" or bool(node.kwargs.get("inplace"))


def _require_sole_use(node: fx.Node, member: nn.Module) -> None:
    """Raise unless nothing else reads the value that a node overwrites: then out of place is the same."""
    value: Any = node
    while value.args and isinstance(value.args[0], fx.Node):
        value = value.args[0]
        if len(value.users) > 1:
            raise NoTranslationError(f"{called(node)} in place, on a value that is read again, has no translation")
        target = type(member.get_submodule(str(value.target))) if value.op == "call_module" else value.target
        if target not in MAY_ALIAS and not _is_in_place(value, member):
            return
