"""What is looked at before a training: the loss on random and on right logits, the schedule's length, the data's shape.

What cannot be right is refused; what may be meant gets one NOTICE a process.
"""

import contextlib
import copy
import functools
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules

from losslab.errors import UserError, notice_once
from losslab.losses import Loss, ignored_label
from losslab.metrics import better_direction, is_share

Interval = Literal["epoch", "step"]

# The loss

TAKES_LOG_PROBABILITIES = ("nll", "kldiv", "kl_div", "poissonnll", "poisson_nll", "gaussiannll", "gaussian_nll")
TAKES_MANY_LABELS = ("bce", "binary_cross_entropy", "multilabel", "softmargin", "soft_margin", "sigmoid")
OF_LOGITS_AND_LABELS = ("CrossEntropyLoss", "MultiMarginLoss", "cross_entropy", "multi_margin_loss")
"""Losses of torch that take logits (N, C) and labels (N,)."""

CONFIDENT = 10.0
"""The logit of a class that is called with confidence; all others have minus this."""


def require_fitting(loss: Any, num_classes: int, device: torch.device) -> None:
    """Call a loss on random, right and wrong logits, as the training will; a value that is doubtful gets a NOTICE.

    A copy of it is called, in training mode and with random streams of its own: nothing is left of the calls.

    Args:
        loss: called with logits (N, C), in the dtype that autocast gives them, and labels (N,) int64.
        num_classes: C.
        device: of logits and labels.

    Raises:
        UserError: the loss takes something else than logits and labels, rejects the call (class weights of another
            number of classes, say), or returns no scalar, or one without a gradient.
    """
    if reason := _is_for_others(loss):
        raise UserError(reason)
    with isolate_rng(include_cuda=device.type == "cuda"), torch.enable_grad():
        torch.manual_seed(0)
        trial = loss
        with contextlib.suppress(Exception):  # raised where it holds something like an open file
            trial = copy.deepcopy(loss)
        if isinstance(trial, nn.Module):
            dtype = torch.get_default_dtype()  # another one than float32 is that of the Trainer's precision
            trial = (trial.to(device) if dtype == torch.float32 else trial.to(device, dtype)).train()
        labels = torch.tensor([c for c in range(num_classes) if c != ignored_label(loss)], device=device)
        labels = labels.repeat(math.ceil(64 / len(labels)))  # N = 64 or more, of each class as many
        is_label = labels.unsqueeze(1) == torch.arange(num_classes, device=device)  # (N, C)
        random = _value(trial, torch.randn(is_label.shape, device=device), labels)
        noise = torch.randn(is_label.shape, device=device) / 10  # a loss may compare the images, which must differ
        right, wrong = (
            _value(trial, CONFIDENT * (2.0 * c - 1) + noise, labels) for c in (is_label, is_label.roll(1, dims=0))
        )
    values = f"{random:.4g} on random logits, {right:.4g} on confident right ones and {wrong:.4g} on wrong ones"
    if not all(map(math.isfinite, (random, right, wrong))):
        notice_once(f"the loss {name_of(loss)} is not finite: {values}.")
    elif min(random, right, wrong) < -1e-6:
        notice_once(
            f"the loss {name_of(loss)} is negative: {values}. It may have no minimum, and take something else than "
            "logits, such as log-probabilities."
        )
    elif right >= 0.998 * wrong:  # the noise makes equal ones differ
        notice_once(f"the loss {name_of(loss)} is not smaller for right answers: {values}. It may not teach them.")


def _is_for_others(loss: Any) -> str | None:
    """Return why a loss of torch or torchvision cannot be called with logits and labels; None for all others.

    A class that derives from one of torch's and has its own forward is judged by its values.
    """
    called = loss.func if isinstance(loss, functools.partial) else loss
    called = type(called).forward if isinstance(called, nn.Module) else called
    module, name = getattr(called, "__module__", None), getattr(called, "__qualname__", "").removesuffix(".forward")
    if module not in ("torch.nn.modules.loss", "torch.nn.functional", "torchvision.ops.focal_loss"):
        return None
    if name in OF_LOGITS_AND_LABELS:
        return None
    if name.lower().startswith(TAKES_MANY_LABELS):
        takes, instead = "a target of 0 or 1 for each logit", "BinaryFocalLoss (gamma 0 is binary cross-entropy)"
    elif name.lower().startswith(TAKES_LOG_PROBABILITIES):
        takes, instead = "log-probabilities", "CrossEntropyLoss, which is log_softmax and NLLLoss in one"
    else:
        takes, instead = "something else", "CrossEntropyLoss or another of losslab.losses"
    name = f"{module.removesuffix('.modules.loss')}.{name}"
    return f"a loss is called with logits (N, C) and labels (N,), but {name} takes {takes}: use {instead}."


def _value(loss: Callable[[Tensor, Tensor], Any], logits: Tensor, labels: Tensor) -> float:
    kind = logits.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.get_default_dtype()
    logits = logits.to(dtype).requires_grad_().clone()  # as a network's: no leaf, so that it may be changed in place
    called = f"called with logits {tuple(logits.shape)} {dtype} and labels {tuple(labels.shape)} {labels.dtype}"
    try:
        value = loss(logits, labels)
    except Exception as error:
        if isinstance(loss, Loss) and isinstance(error, ValueError):
            raise UserError(str(error)) from error
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"the loss {name_of(loss)} fails when {called}: {type(error).__name__}: {first}") from error
    if not isinstance(value, Tensor) or value.ndim > 0:
        got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"loss must return a scalar tensor, but {name_of(loss)} returns {got}, {called}: "
            "return the mean over the images (a loss of losslab or torch has reduction='mean' for that)."
        )
    if not value.requires_grad:
        raise UserError(f"the loss {name_of(loss)} has no gradient in the logits, so that it cannot be minimised.")
    return value.item()


def name_of(given: Any) -> str:
    """Return a name for an object that a user gave: a function's name, or the object's repr without line breaks."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(given))  # an address differs in each process
    return getattr(given, "__qualname__", None) or " ".join(text.split())


# The schedule

DEFAULT_MONITOR = "val/f1/macro"


def scheduler_config(
    scheduler: Any, interval: Interval | None, monitor: str | None, trainer: Trainer
) -> dict[str, Any]:
    """Return Lightning's description of a schedule, after a check that it fits the training.

    Args:
        scheduler: the schedule.
        interval: when it is stepped; None: after each step if it counts steps, else after each epoch.
        monitor: the metric that a ReduceLROnPlateau watches, unless it names one; None: val/f1/macro.
        trainer: knows the training's length.

    Raises:
        UserError: the schedule has another length than the training, or watches the metric in the wrong direction.
    """
    interval = interval or ("step" if _counts_steps(scheduler) else "epoch")
    config = {"scheduler": scheduler, "interval": interval}
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        named = getattr(scheduler, "monitor", None) or monitor
        if named is None:
            notice_once(f"ReduceLROnPlateau names no monitor, and watches {DEFAULT_MONITOR}.")
        config["monitor"] = monitor = named or DEFAULT_MONITOR
        config["frequency"] = trainer.check_val_every_n_epoch or 1
        right = better_direction(monitor)[:3]
        is_known = monitor.endswith("/loss") or ("/" in monitor and is_share(monitor))  # a user's own may be either
        if is_known and scheduler.mode != right:
            raise UserError(
                f"ReduceLROnPlateau(mode={scheduler.mode!r}) watches {monitor}, and would lower the rate while it "
                f"improves: give it mode: {right}."
            )
        if interval == "step":
            raise UserError(f"ReduceLROnPlateau watches {monitor}, which is known after an epoch: omit lr_interval.")
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        _check_length(scheduler, training_length(trainer, interval), interval)
    return config


def training_length(trainer: Trainer, interval: Interval) -> float:
    """Return how often a schedule is stepped in the training; infinite without max_epochs and max_steps."""
    trainer.fit_loop.setup_data()  # num_training_batches needs it
    steps = trainer.estimated_stepping_batches
    if interval == "step" or math.isinf(steps):
        return steps
    return math.ceil(steps / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))


def _counts_steps(scheduler: Any) -> bool:
    parts = getattr(scheduler, "_schedulers", [])  # of a SequentialLR or a ChainedScheduler
    per_step = isinstance(scheduler, schedules.CyclicLR) or hasattr(scheduler, "total_steps")
    return per_step or any(_counts_steps(part) for part in parts)


def _rises_again(minimum: float, length: float) -> bool:
    return minimum < length - 1  # the rate of the last epoch is that of length - 1


MISFITS: tuple[tuple[type, str, Callable[[float, float], bool], str], ...] = (
    (schedules.CosineAnnealingLR, "T_max", operator.gt, "the rate does not reach its minimum"),
    (schedules.CosineAnnealingLR, "T_max", _rises_again, "the rate rises again after its minimum"),
    (schedules.CosineAnnealingWarmRestarts, "T_0", operator.gt, "the rate does not reach its minimum"),
    (schedules.StepLR, "step_size", operator.ge, "the rate never changes"),
    (schedules.MultiStepLR, "milestones", operator.ge, "the rate never changes"),
    (schedules.LinearLR, "total_iters", operator.gt, "the rate does not reach its end"),
    (schedules.ConstantLR, "total_iters", operator.ge, "the rate keeps its factor to the end"),
    (schedules.PolynomialLR, "total_iters", operator.gt, "the rate does not reach its end"),
    (schedules.PolynomialLR, "total_iters", operator.lt, "the rate is 0 from then on, and nothing is learned"),
    (schedules.CyclicLR, "total_size", operator.gt, "no cycle is completed"),
    (schedules.ReduceLROnPlateau, "patience", operator.ge, "the rate is never lowered"),
)
"""Class, attribute, its relation to the training's length that may be a mistake, and the consequence."""


def _check_length(scheduler: Any, length: float, interval: Interval) -> None:
    stepped = f"is stepped after each {interval}, of which the training has {length:.0f}"
    may_count_steps = interval == "epoch" and not isinstance(scheduler, schedules.ReduceLROnPlateau)
    hint = " (lr_interval: step counts steps)" if may_count_steps else ""
    for part, begin, own_length in _parts(scheduler, 0, length):
        name = type(part).__name__
        if own_length <= 0:
            notice_once(f"{name} never begins: it follows after {begin:.0f}, but its schedule {stepped}{hint}.")
            continue
        place = stepped if own_length == length else f"has {own_length:.0f} of the {length:.0f} {interval}s"
        total = getattr(part, "total_steps", None)
        if total is not None and total != own_length:
            raise UserError(
                f"{name}(total_steps={total}) does not fit the training: it {place}. Give it "
                f"total_steps: {own_length:.0f}, change the training's length or lr_interval, or give no lr_scheduler "
                "for one cycle of the right length."
            )
        for owner, attribute, relation, consequence in MISFITS:
            value = getattr(part, attribute) if isinstance(part, owner) else None
            if attribute == "milestones" and value is not None:
                value = min(value, default=None)
            neutral = isinstance(part, schedules.ConstantLR) and part.factor == 1
            if value is not None and relation(value, own_length) and not neutral:
                notice_once(f"{name}({attribute}={value}) {place}: {consequence}{hint}.")


def _parts(scheduler: Any, begin: float, length: float) -> Iterator[tuple[Any, float, float]]:
    """Yield each schedule that is no combination, where it begins and how long it lasts."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts is None:
        yield scheduler, begin, length
    elif isinstance(scheduler, schedules.SequentialLR):
        ends = [*scheduler._milestones, length]
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            yield from _parts(part, begin + start, min(end, length) - start)
    else:
        for part in parts:
            yield from _parts(part, begin, length)


# The data


def require_same_shape(model: Any, data: Any) -> None:
    """Raise UserError if a data module has images of another shape, or another number of classes, than the model."""
    shape, names = getattr(data, "image_shape", None), getattr(data, "class_names", None)
    num_classes = getattr(data, "num_classes", None) or (names and len(names))
    for name, value in (("image_shape", shape and tuple(shape)), ("num_classes", num_classes)):
        own = getattr(model, name)
        if value is not None and value != own:
            raise UserError(
                f"the model has {name} {own}, and the data {type(data).__name__} have {value}: "
                f"give the model {name}={value}, or the data that it was made for."
            )
