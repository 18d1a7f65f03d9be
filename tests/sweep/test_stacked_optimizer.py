"""One optimiser over stacked parameters moves each member as its own optimiser and schedule do."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operations import Operations
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as schedules

from losslab.sweep.stacked_optimizer import StackedOptimizer, step_values

STEPS, PER_EPOCH = 24, 4

Make = Callable[[list[Tensor]], torch.optim.Optimizer]
Schedule = Callable[[torch.optim.Optimizer], Any]

OPTIMIZERS: dict[str, Callable[[int], Make]] = {
    "SGD": lambda k: functools.partial(SGD, lr=0.1 / (1 + k)),
    "SGD with momentum of some": lambda k: functools.partial(SGD, lr=0.1, momentum=0.4 * k, weight_decay=0.01 * k),
    "SGD with dampening": lambda k: functools.partial(SGD, lr=0.1, momentum=0.5 + 0.1 * k, dampening=0.3 * k),
    "SGD with Nesterov": lambda k: functools.partial(SGD, lr=0.1, momentum=0.5 + 0.1 * k, nesterov=True),
    "Adam": lambda k: functools.partial(Adam, lr=0.1 / (1 + k), betas=(0.8 + 0.05 * k, 0.9 + 0.03 * k)),
    "Adam with decay of some": lambda k: functools.partial(Adam, lr=0.1, weight_decay=0.1 * k, eps=0.1 ** (4 + k)),
    "fused Adam": lambda k: functools.partial(Adam, lr=0.1, fused=True),
    "AdamW": lambda k: functools.partial(AdamW, lr=0.1, weight_decay=0.3 * k),
    "Adam, decoupled": lambda k: functools.partial(Adam, lr=0.1, weight_decay=0.3 * k, decoupled_weight_decay=True),
}  # fmt: skip

SCHEDULES: dict[str, tuple[str, Callable[[int], Schedule]]] = {
    "one cycle": ("step", lambda k: functools.partial(schedules.OneCycleLR, max_lr=0.2 / (1 + k), total_steps=STEPS)),
    "one cycle of the rate alone": (
        "step",
        lambda _: functools.partial(schedules.OneCycleLR, max_lr=0.2, total_steps=STEPS, cycle_momentum=False),
    ),
    "steps": ("epoch", lambda k: functools.partial(schedules.StepLR, step_size=1 + k, gamma=0.5)),
    "a function": ("step", lambda k: lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + k * step))),
    "one after the other": (
        "epoch",
        lambda k: (
            lambda o: schedules.SequentialLR(
                o, [schedules.ConstantLR(o, 0.1 + 0.2 * k, 2), schedules.CosineAnnealingLR(o, 4)], [2]
            )
        ),
    ),
}


def gradient(parameter: Tensor, step: int) -> Tensor:
    """A gradient that depends on the parameter, so that one wrong step changes all later ones."""
    return torch.cos(parameter * (1 + step)) + 0.1 * parameter


def train_alone(start: Tensor, make: Make, schedule: tuple[str, Schedule] | None) -> Tensor:
    parameter = start.clone().requires_grad_()
    optimizer = make([parameter])
    scheduler = schedule[1](optimizer) if schedule else None
    for step in range(STEPS):
        parameter.grad = gradient(parameter.detach(), step)
        optimizer.step()
        if scheduler is not None and (schedule[0] == "step" or (step + 1) % PER_EPOCH == 0):
            scheduler.step()
    return parameter.detach()


def values_of(starts: Tensor, makes: list[Make], own: list[tuple[str, Schedule]] | None) -> Any:
    optimizers = [make([start.clone().requires_grad_()]) for start, make in zip(starts, makes, strict=True)]
    for optimizer in optimizers:
        optimizer._opt_called = True
    built: list[Any] = [[] for _ in optimizers]
    for k, (interval, make_schedule) in enumerate(own or []):
        built[k] = [{"interval": interval, "scheduler": make_schedule(optimizers[k])}]
    return step_values(optimizers, built, STEPS, PER_EPOCH)


def train_together(starts: Tensor, values: Any) -> Tensor:
    stack = starts.clone().requires_grad_()
    optimizer = StackedOptimizer([(stack, values)])
    for step in range(STEPS):
        stack.grad = gradient(stack.detach(), step)
        optimizer.step()
    return stack.detach()


@pytest.fixture
def starts() -> Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_member_moves_as_by_its_own_optimiser(make: Callable[[int], Make], starts: Tensor) -> None:
    makes = [make(k) for k in range(3)]
    together = train_together(starts, values_of(starts, makes, None))
    alone = torch.stack([train_alone(start, own, None) for start, own in zip(starts, makes, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["SGD with Nesterov", "Adam", "AdamW"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_each_member_has_its_own_schedule(
    kind: str, schedule: tuple[str, Callable[[int], Schedule]], starts: Tensor
) -> None:
    makes = [OPTIMIZERS[kind](k) for k in range(3)]
    own = [(schedule[0], schedule[1](k)) for k in range(3)]
    together = train_together(starts, values_of(starts, makes, own))
    alone = [train_alone(start, make, each) for start, make, each in zip(starts, makes, own, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-10, atol=1e-12)


def test_members_with_equal_schedules_but_other_functions_keep_their_own(starts: Tensor) -> None:
    """Two lambdas have nothing to tell them apart but what they enclose."""
    makes = [OPTIMIZERS["SGD"](0)] * 3
    own = [("step", functools.partial(schedules.LambdaLR, lr_lambda=lambda _, k=k: 1.0 + k)) for k in range(3)]
    rates = values_of(starts, makes, own).table[5, 0]
    assert rates.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_what_a_schedule_keeps_in_the_parameter_group_tells_schedules_apart(starts: Tensor) -> None:
    """OneCycleLR keeps its highest and lowest values there."""
    makes = [functools.partial(SGD, lr=0.1, momentum=0.9)] * 3
    cycle = functools.partial(schedules.OneCycleLR, total_steps=STEPS, pct_start=0.5)
    differing: list[dict[str, Any]] = [
        {"max_lr": 0.1}, {"max_lr": 0.1, "final_div_factor": 10}, {"max_lr": 0.2, "div_factor": 50},
    ]  # fmt: skip
    own = [("step", functools.partial(cycle, base_momentum=0.85, **each)) for each in differing]
    together = train_together(starts, values_of(starts, makes, own))
    alone = [train_alone(start, make, each) for start, make, each in zip(starts, makes, own, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-10, atol=1e-12)
    momenta = [("step", functools.partial(cycle, max_lr=0.1, base_momentum=low)) for low in (0.85, 0.5, 0.1)]
    assert values_of(starts, makes, momenta).table[:, 1].amin(dim=0).tolist() == pytest.approx([0.85, 0.5, 0.1])


def test_parameters_in_less_than_float32_have_no_values(starts: Tensor) -> None:
    assert values_of(starts.bfloat16(), [functools.partial(Adam, lr=0.1)] * 3, None) is None


def test_some_members_values_are_theirs(starts: Tensor) -> None:
    values = values_of(starts, [OPTIMIZERS["Adam with decay of some"](k) for k in range(3)], None)
    some = values.of([2, 0])
    torch.testing.assert_close(train_together(starts[[2, 0]], some), train_together(starts, values)[[2, 0]])


class Halves(schedules.LRScheduler):
    """A user's own; it might look at anything."""

    def get_lr(self) -> list[float]:
        return [base / 2 for base in self.base_lrs]


@pytest.mark.parametrize(
    ("makes", "schedule"),
    [
        ([functools.partial(RMSprop, lr=0.1)] * 3, None),
        ([functools.partial(Adam, amsgrad=True)] * 3, None),
        ([functools.partial(SGD, lr=0.1, maximize=True)] * 3, None),
        ([functools.partial(SGD, lr=0.1, momentum=0.5, nesterov=k > 0) for k in range(3)], None),
        ([functools.partial(Adam, lr=0.1)] * 2 + [functools.partial(AdamW, lr=0.1)], None),
        ([functools.partial(Adam, weight_decay=0.1, decoupled_weight_decay=k > 0) for k in range(3)], None),
        ([lambda p: Adam([{"params": p}, {"params": [torch.zeros(1)]}])] * 3, None),
        ([functools.partial(SGD, lr=0.1)] * 3, Halves),
        (
            [functools.partial(SGD, lr=0.1, momentum=0.9)] * 3,
            functools.partial(schedules.OneCycleLR, max_lr=0.1, total_steps=STEPS, base_momentum=0.0, pct_start=0.5),
        ),
        ([functools.partial(SGD, lr=0.1)] * 3, schedules.ReduceLROnPlateau),
        ([functools.partial(SGD, lr=0.1)] * 3, lambda o: schedules.SequentialLR(o, [Halves(o), Halves(o)], [1])),
    ],
    ids=[
        "RMSprop",
        "amsgrad",
        "maximize",
        "Nesterov of some",
        "Adam and AdamW",
        "decoupled of some",
        "two groups",
        "a user's schedule",
        "momentum that passes through 0",
        "ReduceLROnPlateau",
        "a user's schedules one after the other",
    ],
)
def test_what_is_no_function_of_the_steps_has_no_values(makes: list[Any], schedule: Any, starts: Tensor) -> None:
    assert values_of(starts, makes, [("step", schedule)] * 3 if schedule else None) is None


@pytest.mark.parametrize(("kind", "expected"), [("Adam with decay of some", 11), ("SGD with momentum of some", 6)])
def test_a_step_takes_as_many_operations_for_60_members_as_for_two(kind: str, expected: int) -> None:
    for members in (2, 60):
        starts = torch.zeros(members, 5)
        stack = starts.clone().requires_grad_()
        optimizer = StackedOptimizer(
            [(stack, values_of(starts, [OPTIMIZERS[kind](k % 3) for k in range(members)], None))]
        )
        stack.grad = torch.ones_like(stack)
        optimizer.step()
        with Operations() as operations:
            optimizer.step()
        assert operations.count == expected
