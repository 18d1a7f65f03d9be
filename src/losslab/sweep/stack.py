"""Modules computed as one: their tensors stacked, and a module called with others than its own."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from losslab.models import Classifier
from losslab.sweep.eligibility import TrainAloneError


class Stack(nn.Module):
    """The parameters and buffers of K modules of one structure.

    The parameters are one tensor (K, P), a row for each module, so that an optimiser moves all of them at once; there
    is another tensor for parameters of another dtype, and for those that are not trained. A buffer is stacked alone.

    Args:
        owners: the modules; none, and there is nothing to stack.
        apart: names that begin so are left out.
    """

    def __init__(self, owners: Sequence[nn.Module], apart: str | tuple[str, ...] = ()) -> None:
        super().__init__()
        self._owners = list(owners)  # a list, so that they are no submodules: the stacks are trained
        kinds: dict[tuple[torch.dtype, bool], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in [pair for owner in owners[:1] for pair in owner.named_parameters()]:
            if not name.startswith(apart):
                kinds.setdefault((parameter.dtype, parameter.requires_grad), []).append((name, parameter))
        self.rows = nn.ParameterList()
        self._names: list[list[str]] = []
        self._sizes: list[list[int]] = []
        self._orders: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for (_, is_trained), parts in kinds.items():
            for name, parameter in parts:
                # The order of its dimensions in memory, last in front where channels are last.
                last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
                order = (0, 2, 3, 1) if last else tuple(range(parameter.ndim))
                self._orders[name] = tuple(parameter.permute(order).shape), order
            self._names.append([name for name, _ in parts])
            self._sizes.append([parameter.numel() for _, parameter in parts])
            rows = [torch.cat([self._flat(name, owner) for name, _ in parts]) for owner in owners]
            self.rows.append(nn.Parameter(torch.stack(rows), is_trained))
        self._buffered = [n for m in owners[:1] for n, _ in m.named_buffers() if not n.startswith(apart)]
        for number, name in enumerate(self._buffered):
            stack = torch.stack([owner.get_buffer(name) for owner in owners])
            self.register_buffer(f"buffer_{number}", stack, persistent=False)
        self._gradients: list[Tensor | None] = [None for _ in self.rows]
        self._watched: set[str] | None = None  # trained names, each until it gets a gradient
        self.unused: set[str] = set()
        """Names of trained parameters that get no gradient, as known since `stop_watching`."""

    def _flat(self, name: str, owner: nn.Module) -> Tensor:
        return owner.get_parameter(name).detach().permute(self._orders[name][1]).flatten()

    def _parts(self, number: int, rows: Tensor) -> dict[str, Tensor]:
        """Return views of `rows` (K, P), of parameters or gradients, by name: (K, ...) each."""
        parts = {}
        for name, part in zip(self._names[number], rows.split(self._sizes[number], dim=1), strict=True):
            shape, order = self._orders[name]
            part = part.unflatten(1, shape) if shape else part.squeeze(1)
            parts[name] = part.permute(0, *(1 + order.index(place) for place in range(len(order))))
        return parts

    def state(self) -> dict[str, Tensor]:
        """Return the stacks by the names that the modules have for their slices: (K, ...) each."""
        state: dict[str, Tensor] = {}
        for number, rows in enumerate(self.rows):
            state |= self._parts(number, rows)
        if (names := self._watched) is not None:
            for name, part in state.items():
                if part.requires_grad:
                    names.add(name)
                    part.register_hook(lambda _, name=name: names.discard(name))
        return state | {name: self.get_buffer(f"buffer_{number}") for number, name in enumerate(self._buffered)}

    def watch(self) -> None:
        """Watch which parameters get a gradient in the next step."""
        self._watched = set()

    def stop_watching(self) -> bool:
        """Return whether the parameters without a gradient are others than before; False if none were watched."""
        before, watched = self.unused, self._watched
        self._watched = None
        self.unused = before if watched is None else watched
        return self.unused != before

    def used(self, number: int) -> Tensor:
        """Return a mask of the columns of `rows[number]` that get a gradient, (P,) bool."""
        names = zip(self._names[number], self._sizes[number], strict=True)
        used = [torch.full((size,), name not in self.unused) for name, size in names]
        return torch.cat(used).to(self.rows[number].device)

    @torch.no_grad()
    def give_slices(self) -> None:
        """Make each module's parameters and buffers its slices of the stacks."""
        for name, stack in self.state().items():
            for k, owner in enumerate(self._owners):
                own = owner.get_parameter(name) if name in self._orders else owner.get_buffer(name)
                own.data = stack.data[k]

    def give_gradients(self) -> None:
        """Give the modules their slices of gradients that are new (validation drops the former ones), or none."""
        for number, rows in enumerate(self.rows):
            if rows.grad is not self._gradients[number]:
                self._gradients[number] = rows.grad
                gradients = {} if rows.grad is None else self._parts(number, rows.grad)
                for name in self._names[number]:
                    is_none = not gradients or name in self.unused
                    for k, owner in enumerate(self._owners):
                        owner.get_parameter(name).grad = None if is_none else gradients[name][k]


def call(module: nn.Module, state: dict[str, Tensor], *arguments: Tensor) -> Tensor:
    """Call a module with these parameters and buffers in place of its own.

    Raises:
        TrainAloneError: the module replaces a buffer; a new value that is not written into the old one would be lost.
    """
    before = dict(state)
    output: Tensor = functional_call(module, state, arguments)
    if replaced := [name for name, tensor in before.items() if state[name] is not tensor]:
        raise TrainAloneError(f"{type(module).__name__} assigns a new tensor to {', '.join(replaced)}")
    return output


@contextlib.contextmanager
def hiding_loss(model: Classifier, groups: list[list[int]]) -> Iterator[None]:
    """Let nothing read a model's loss, since it is that of the first of these groups only."""

    class Hidden:
        def __getattribute__(self, _: str) -> Any:
            raise TrainAloneError(
                f"{type(model).__name__}.forward reads the loss, of which there are {len(groups)}", groups
            )

        __call__ = __getattribute__

    own = vars(model)
    function = own.get("loss")  # a module is found elsewhere, and only if there is no such attribute
    own["loss"] = Hidden()
    try:
        yield
    finally:
        del own["loss"]
        if function is not None:
            own["loss"] = function
