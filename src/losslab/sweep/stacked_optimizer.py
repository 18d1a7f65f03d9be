"""One optimiser for the stacked parameters of K members, each with its own values in each step."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

Schedules = Sequence[dict[str, Any]]
"""What `configure_optimizers` returns as a member's schedules: {"scheduler", "interval", ...} each."""


class StepValues(NamedTuple):
    """What the optimisers of K members, all of one class, do in each step of a training.

    Args:
        kind: SGD, Adam or AdamW.
        table: learning rate, and momentum or Adam's beta 1, of each step, (steps, 2, K) float64.
        constants: the other numbers of their parameter groups by name, (K,) float64 each.
        nesterov: SGD looks ahead (all members do, or none).
    """

    kind: type[Optimizer]
    table: Tensor
    constants: dict[str, Tensor]
    nesterov: bool = False

    def of(self, members: Sequence[int]) -> "StepValues":
        """Return the values of some of the members."""
        chosen = list(members)
        constants = {name: values[chosen] for name, values in self.constants.items()}
        return self._replace(table=self.table[..., chosen], constants=constants)


KINDS = (SGD, Adam, AdamW)
"""The optimisers that are computed for all members at once."""


def step_values(
    optimizers: Sequence[Optimizer], schedules: Sequence[Schedules], steps: int, steps_per_epoch: int
) -> StepValues | None:
    """Run the members' schedules to the training's end, and return what they set; None where that is not enough.

    A schedule of torch depends on how often it was called and on its optimiser's parameter group, in which it may keep
    numbers of its own; so it sets in advance what it would set in the training. ReduceLROnPlateau and a user's own
    schedules may look at more. The optimisers and schedules are used up.

    Args:
        optimizers: one for each member, not stepped yet.
        schedules: those of each member.
        steps: steps of the training.
        steps_per_epoch: steps of an epoch.

    Returns:
        None if the optimisers are not all of one class in `KINDS`, have several parameter groups or variants
        (amsgrad, maximize), or parameters in less than float32, to which the values would be rounded; if a schedule is
        not of torch, watches a metric, or sets other values than a learning rate, a momentum or beta 1; or if a
        momentum is 0 in some steps only, in which torch would leave its buffer as it is.
    """
    kind = type(optimizers[0])
    if kind not in KINDS or any(type(each) is not kind or len(each.param_groups) > 1 for each in optimizers):
        return None
    groups = [each.param_groups[0] for each in optimizers]
    variants = [tuple(map(group.get, ("nesterov", "decoupled_weight_decay"))) for group in groups]
    if len(set(variants)) > 1 or any(group.get("amsgrad") or group["maximize"] for group in groups):
        return None
    if any(parameter.dtype.itemsize < 4 for group in groups for parameter in group["params"]):
        return None
    if not all(_is_function_of_steps(each["scheduler"]) for own in schedules for each in own):
        return None
    constants = [_constants(group) for group in groups]
    found: dict[str, Tensor] = {}
    columns = []
    for optimizer, own in zip(optimizers, schedules, strict=True):
        group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        key = repr((_plain(group), _settings(own)))
        if key not in found:
            found[key] = _run_ahead(optimizer.param_groups[0], own, steps, steps_per_epoch)
        columns.append(found[key])
    if any(_constants(group) != before for group, before in zip(groups, constants, strict=True)):
        return None
    table = torch.stack(columns, dim=-1)
    is_zero = table[:, 1] == 0  # (steps, K)
    if kind is SGD and bool((is_zero.any(dim=0) & ~is_zero.all(dim=0)).any()):
        return None
    nesterov, is_decoupled = map(bool, variants[0])
    return StepValues(
        AdamW if is_decoupled else kind,
        table,
        {name: torch.tensor([each[name] for each in constants], dtype=torch.float64) for name in constants[0]},
        nesterov,
    )


def _is_function_of_steps(scheduler: Any) -> bool:
    parts = getattr(scheduler, "_schedulers", [])  # of a SequentialLR or a ChainedScheduler
    ours = type(scheduler).__module__ == lr_scheduler.__name__
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    return ours and not plateau and all(map(_is_function_of_steps, parts))


def _values(group: dict[str, Any]) -> tuple[float, float]:
    """Return the learning rate, and the momentum or beta 1, of a parameter group."""
    return float(group["lr"]), float(group["betas"][0] if "betas" in group else group["momentum"])


def _constants(group: dict[str, Any]) -> dict[str, float]:
    numbers = {name: float(group[name]) for name in ("weight_decay", "dampening", "eps") if name in group}
    return numbers | ({"beta2": float(group["betas"][1])} if "betas" in group else {})


def _settings(schedules: Schedules) -> list[Any]:
    """Return what makes two schedules set the same values; a function of the user's is equal to itself only."""
    return [(type(each["scheduler"]), each["interval"], _plain(vars(each["scheduler"]))) for each in schedules]


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {name: _plain(part) for name, part in value.items() if name != "optimizer"}
        case list() | tuple():
            return [_plain(part) for part in value]
        case lr_scheduler.LRScheduler():
            return [type(value), _plain(vars(value))]
    return id(value)


def _run_ahead(group: dict[str, Any], schedules: Schedules, steps: int, steps_per_epoch: int) -> Tensor:
    """Return the `_values` of each step, (steps, 2) float64."""
    rows = []
    for step in range(1, steps + 1):
        rows.append(_values(group))
        for each in schedules if step < steps else []:
            if each["interval"] == "step" or step % steps_per_epoch == 0:
                each["scheduler"].step()
    return torch.tensor(rows, dtype=torch.float64)


class StackedOptimizer(Optimizer):
    """SGD, Adam or AdamW for stacks (K, P) of parameters: each row is a member's, with its own values.

    The equations are those of torch.optim, in as many operations for 60 members as for one. What changes from step to
    step is computed in advance, in float64, and read at a counter on the device.

    Args:
        stacks: parameters (K, P), with the values of their members.
    """

    def __init__(self, stacks: Sequence[tuple[Tensor, StepValues]]) -> None:
        super().__init__([stack for stack, _ in stacks], {})
        self._plans = [(stack, values, *_plan(values, stack)) for stack, values in stacks]
        self._step_number = torch.zeros(1, dtype=torch.int64, device=stacks[0][0].device)

    def leave(self, used: Mapping[Tensor, Tensor]) -> None:
        """Let parameters without a gradient be as they are, without weight decay.

        Args:
            used: by stack (K, P), a mask (P,) of its columns that get a gradient.
        """
        for stack, _, _, constants in self._plans:
            if stack in used and "weight_decay" in constants:
                constants["weight_decay"] = constants["weight_decay"] * used[stack]  # (K, P)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Compute loss and gradients by `closure`, and move each member's parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for stack, values, table, constants in self._plans:
            if stack.grad is None:
                continue
            now = table.index_select(0, self._step_number).unsqueeze(-1).unbind(dim=1)  # (1, K, 1) each
            move = self._move_sgd if values.kind is SGD else self._move_adam
            move(stack, stack.grad, values, [each[0] for each in now], constants)
        self._step_number += 1
        return loss

    def _move_sgd(
        self, stack: Tensor, grad: Tensor, values: StepValues, now: list[Tensor], constants: dict[str, Tensor]
    ) -> None:
        momentum, share, minus_rate = now  # (K, 1) each
        if "weight_decay" in constants:
            grad = torch.addcmul(grad, stack, constants["weight_decay"])
        if "momentum" in constants:
            state = self.state[stack]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(stack)
            buffer = state["momentum_buffer"].mul_(momentum).addcmul_(grad, share)
            grad = torch.addcmul(grad, buffer, momentum) if values.nesterov else buffer
        stack.addcmul_(grad, minus_rate)

    def _move_adam(
        self, stack: Tensor, grad: Tensor, values: StepValues, now: list[Tensor], constants: dict[str, Tensor]
    ) -> None:
        one_minus_beta1, minus_size, root, minus_rate = now  # (K, 1) each
        if "weight_decay" in constants and values.kind is AdamW:
            stack.addcmul_(stack, constants["weight_decay"] * minus_rate)
        elif "weight_decay" in constants:
            grad = torch.addcmul(grad, stack, constants["weight_decay"])
        state = self.state[stack]
        if not state:
            state |= {name: torch.zeros_like(stack) for name in ("exp_avg", "exp_avg_sq")}
        mean = state["exp_avg"].lerp_(grad, one_minus_beta1)
        square = state["exp_avg_sq"].lerp_(grad * grad, constants["one_minus_beta2"])
        stack.addcmul_(mean / square.sqrt().div_(root).add_(constants["eps"]), minus_size)


def _plan(values: StepValues, stack: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the numbers of each step, (steps, 3 or 4, K), and those of all steps, (K, 1) each, as the stack is.

    Where no member has weight decay or momentum, there is none.
    """
    rate, momentum = values.table.unbind(dim=1)  # (steps, K)
    of = values.constants
    if values.kind is SGD:
        share = torch.where(momentum == 0, 1.0, 1 - of["dampening"])
        share[0] = 1.0  # the first gradient is the first momentum
        columns, constants = [momentum, share, -rate], {"momentum": momentum[0]} if momentum.any() else {}
    else:
        number = torch.arange(1, len(rate) + 1, dtype=torch.float64).unsqueeze(1)  # (steps, 1)
        root = (1 - of["beta2"] ** number).sqrt()
        columns = [1 - momentum, -rate / (1 - momentum**number), root, -rate]
        constants = {"eps": of["eps"], "one_minus_beta2": 1 - of["beta2"]}
    if of["weight_decay"].any():
        constants["weight_decay"] = of["weight_decay"]
    table = torch.stack(columns, dim=1).to(stack)
    return table, {name: column.unsqueeze(1).to(stack) for name, column in constants.items()}
