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
    """The parameters and buffers of K modules of one structure, stacked, (K, ...).

    Args:
        owners: the modules; none, and there is nothing to stack.
        apart: names that begin so are left out.
    """

    def __init__(self, owners: Sequence[nn.Module], apart: str | tuple[str, ...] = ()) -> None:
        super().__init__()
        self._owners = list(owners)  # a list, so that they are no submodules: the stacks are trained
        self._trained = [n for m in owners[:1] for n, _ in m.named_parameters() if not n.startswith(apart)]
        self._buffered = [n for m in owners[:1] for n, _ in m.named_buffers() if not n.startswith(apart)]
        self.trained = nn.ParameterList()
        for name in self._trained:
            own = [owner.get_parameter(name) for owner in owners]
            self.trained.append(nn.Parameter(torch.stack([p.detach() for p in own]), own[0].requires_grad))
        for number, name in enumerate(self._buffered):
            stack = torch.stack([owner.get_buffer(name) for owner in owners])
            self.register_buffer(f"buffer_{number}", stack, persistent=False)
        self._gradients: list[Tensor | None] = [None for _ in self._trained]

    def state(self) -> dict[str, Tensor]:
        """Return the stacks by the names that the modules have for their slices."""
        buffers = {name: self.get_buffer(f"buffer_{number}") for number, name in enumerate(self._buffered)}
        return dict(zip(self._trained, self.trained, strict=True)) | buffers

    def give_slices(self) -> None:
        """Make each module's parameters and buffers its slices of the stacks."""
        for name, stack in self.state().items():
            for k, owner in enumerate(self._owners):
                own = owner.get_parameter(name) if name in self._trained else owner.get_buffer(name)
                own.data = stack.data[k]

    def give_gradients(self) -> None:
        """Give the modules their slices of gradients that are new (validation drops the former ones), or none."""
        for number, (name, stack) in enumerate(zip(self._trained, self.trained, strict=True)):
            if stack.grad is not self._gradients[number]:
                self._gradients[number] = stack.grad
                for k, owner in enumerate(self._owners):
                    owner.get_parameter(name).grad = None if stack.grad is None else stack.grad[k]


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
