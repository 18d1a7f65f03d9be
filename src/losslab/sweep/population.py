"""Many classifiers as one vectorised model: each is trained as if it were alone."""

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import vmap

from losslab.errors import notice_once
from losslab.models import (
    Classifier,
    EpochTally,
    NonFiniteLossError,
    count_correct_in,
    counted_labels,
    evaluation_logits,
    population_metrics,
    require_finite,
    running_metrics,
)
from losslab.sweep.eligibility import (
    TrainAloneError,
    ignored_class,
    loss_attributes,
    member_attributes,
    network_attributes,
    require_equal,
)
from losslab.sweep.fusion import FusedNetwork, NoTranslationError
from losslab.sweep.stack import Stack, call, hiding_loss
from losslab.sweep.stacked_optimizer import StackedOptimizer, step_values
from losslab.sweep.training import describe_error


class Population(LightningModule):
    """K classifiers that differ in weights, losses, optimiser values and seeds, trained by one Trainer.

    Parameters and buffers are stacked, (K, ...). A step computes all networks as one, by a `FusedNetwork` or, where a
    part of theirs has no translation, by one `torch.func.vmap`; the losses by one vmap for each group of members whose
    losses differ in tensors only; and it moves all parameters by one `StackedOptimizer`, with the values that the
    members' own optimisers and schedules have in each step. Each member stays a Classifier whose tensors are slices of
    the stacks: where an optimiser or a schedule is none that a StackedOptimizer can be, the members' own ones act on
    the slices. The loss that is differentiated is the sum of the members' losses: a member's gradient depends on no
    other member, and a NaN in one leaves the others as they are.

    With dropout the members draw their masks from one random stream, so that their masks differ from those of a
    training alone. All else is the same arithmetic in another order.

    It is long because it is a Classifier's whole life for K of them: set-up, steps, schedules and metrics.

    Args:
        members: classifiers of one class with networks of one structure, and any losses, for which
            `losslab.sweep.eligibility.why_alone` gives no reason. Their own steps and hooks are not called.

    Raises:
        TrainAloneError: in a fit, members turned out to differ in other attributes of their networks, to change
            attributes, or to train other parameters in other epochs; or a loss or an optimiser cannot be computed so.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = list(members)  # a list, so that they are no submodules: the stacks are trained
        self.metrics: list[dict[str, float]] = [{} for _ in members]
        """Each member's metrics of the last epoch."""
        self.failures: dict[int, NonFiniteLossError] = {}
        """By member: the error of a loss that became NaN or infinite."""
        self.stopped: set[int] = set()
        """Members that failed or were pruned: they get no metrics."""
        self._unfit: dict[int, Exception] = {}

    @contextlib.contextmanager
    def _of(self, members: Iterable[int]) -> Iterator[None]:
        """Note an error as one of these members only; `_leave_out` raises it once all others have been looked at."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._unfit |= dict.fromkeys(members, error)

    def _leave_out(self) -> None:
        """Raise TrainAloneError if members had an error; it names the others, which may be a population."""
        if self._unfit:
            errors = dict.fromkeys(self._unfit.values())
            said = dict.fromkeys(str(e) if isinstance(e, TrainAloneError) else describe_error(e) for e in errors)
            rest = [k for k in range(len(self.members)) if k not in self._unfit]
            raise TrainAloneError("; ".join(said), [rest]) from next(iter(errors))

    def setup(self, stage: str) -> None:
        """Set up the members (class counts of their losses), group them by loss, stack parameters and buffers."""
        groups: dict[str, list[int]] = {}
        for k, member in enumerate(self.members):
            with self._of([k]):
                member.trainer = self.trainer
                member.prepare_loss(self.trainer, self.trainer.datamodule.datas[k])  # type: ignore[attr-defined]
            groups.setdefault(repr(loss_attributes(member.loss)), []).append(k)
        self._leave_out()
        first, self._groups = self.members[0], list(groups.values())
        shared = member_attributes(first)
        for member in self.members[1:]:
            require_equal(member_attributes(member), shared, member, "differs between members")
        self._ignored = ignored_class(first)
        self.network = Stack(self.members, apart="loss.")
        self._fused = self._fuse()
        losses = [[self.members[k].loss for k in group] for group in self._groups]
        self.of_losses = nn.ModuleList(
            Stack([loss for loss in group if isinstance(loss, nn.Module)]) for group in losses
        )
        device = self.trainer.strategy.root_device
        order = torch.tensor([k for group in self._groups for k in group], device=device)  # a group is a slice of it
        self._is_sorted = bool((order.diff() > 0).all())
        self._order, self._places = order, order.argsort()  # (K,)

    def _fuse(self) -> FusedNetwork | None:
        """Return the networks as one, or None where a part of them has no translation, which is said."""
        try:
            return FusedNetwork(self.members[0], len(self.members))
        except NoTranslationError as error:
            notice_once(f"{error}: networks of {type(self.members[0]).__name__} are computed by vmap, which is slower.")
            return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one optimiser over the stacks; where there is none, one with the groups of the members' own."""
        for stack in self._stacks():
            stack.give_slices()
        optimizers, schedules = self._own_optimizers()
        # Now that class counts and dtypes are those of the training.
        self._shared = network_attributes(self.members[0])
        self._of_loss = [loss_attributes(self.members[group[0]].loss) for group in self._groups]
        self._random_state: str | None = _random_state()
        self._schedules: list[Any] = [[] for _ in self.members]  # those that are stepped in the training
        steps = int(self.trainer.estimated_stepping_batches)
        values = None
        own = zip(optimizers, self.members, strict=True)
        if all(len(optimizer.param_groups[0]["params"]) == len([*m.parameters()]) for optimizer, m in own):
            values = step_values(optimizers, schedules, steps, int(self.trainer.num_training_batches))
        self._stacked: StackedOptimizer | None = None
        if values is not None:
            stacks = [(rows, values) for rows in self.network.rows if rows.requires_grad]
            for group, stack in zip(self._groups, self._stacks()[1:], strict=True):
                stacks += [(rows, values.of(group)) for rows in stack.rows if rows.requires_grad]
            self._stacked = StackedOptimizer(stacks)
            return self._stacked
        optimizers, self._schedules = self._own_optimizers()  # anew: the schedules may have been run
        merged = copy.copy(optimizers[0])
        merged.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return merged

    def _own_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """Return the optimiser and the schedules of each member, built by itself."""
        optimizers: list[torch.optim.Optimizer] = []
        every_schedule: list[Any] = []
        for k, member in enumerate(self.members):
            with self._of([k]):
                (optimizer,), schedules = member.configure_optimizers()
                kind = type(optimizer)
                if not kind.__module__.startswith("torch.optim.") or isinstance(optimizer, torch.optim.LBFGS):
                    raise TrainAloneError(f"{kind.__name__}.step may act on all of its parameters at once")
                if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                    raise TrainAloneError(f"{kind.__name__} has hooks")
                optimizers.append(optimizer)
                every_schedule.append(schedules)
                optimizer._opt_called = True  # or its schedule would warn that it never steps
        self._leave_out()
        return optimizers, every_schedule

    def _stacks(self) -> list[Stack]:
        return [self.network, *self.of_losses]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients; those of which the members have slices are zeroed in place."""
        gradients = [rows.grad for rows in self.parameters() if rows.grad is not None]
        if self._stacked is not None:
            self._stacked.zero_grad()
        elif gradients:
            torch._foreach_zero_(gradients)

    def on_after_backward(self) -> None:
        first_step = self.trainer.global_step == 0
        for stack in self._stacks():
            if stack.stop_watching():
                if not first_step:
                    names = ", ".join(sorted(stack.unused)) or "none"
                    raise TrainAloneError(f"other parameters get no gradient in epoch {self.current_epoch}: {names}")
                if self._stacked is not None:
                    self._stacked.leave({rows: stack.used(number) for number, rows in enumerate(stack.rows)})
            if self._stacked is None:
                stack.give_gradients()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (K, B, C) of each member's images (K, B, *image_shape), or of common ones (B, *image_shape)."""
        if self._fused is not None:
            return self._fused(self.network.state(), images, self.training)
        first = self.members[0].train(self.training)
        own = images.ndim > len(first.image_shape) + 1
        state = self.network.state()
        hidden: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if len(self._groups) > 1:
            hidden = hiding_loss(first, self._groups)
        else:  # a network may read its loss
            state |= {f"loss.{name}": stack for name, stack in self._stacks()[1].state().items()}
        member_logits = functools.partial(call, first)  # (B, C)
        with hidden:
            return vmap(member_logits, (0, 0 if own else None), randomness="different")(state, images)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each member's loss, (K,), of logits (K, B, C) and labels (K, B), or common ones (B,)."""
        own = labels.ndim > 1
        if not self._is_sorted:
            logits = logits.index_select(0, self._order)
            labels = labels.index_select(0, self._order) if own else labels
        sizes = [len(group) for group in self._groups]
        their_labels = labels.split(sizes) if own else [labels] * len(sizes)
        found = []
        for group, stack, *batch in zip(
            self._groups, self._stacks()[1:], logits.split(sizes), their_labels, strict=True
        ):
            with self._of(group):
                loss = self.members[group[0]].loss
                member_loss: Callable[..., Tensor] = functools.partial(_call_loss, loss)
                if isinstance(loss, nn.Module) and loss.training != self.training:
                    loss.train(self.training)
                losses = vmap(member_loss, (0, 0, 0 if own else None))(stack.state(), *batch)
                if losses.shape != (len(group),):
                    raise TrainAloneError(f"the loss {loss} returns no scalar")
                self._require_no_draws(loss)
                found.append(losses)
        self._leave_out()
        losses = torch.cat(found)
        return losses if self._is_sorted else losses.index_select(0, self._places)

    def _require_no_draws(self, part: Any) -> None:
        """In the first step, raise TrainAloneError if what has been computed last drew Python's or NumPy's numbers."""
        if self._random_state is not None and self._random_state != (now := _random_state()):
            self._random_state = now
            raise TrainAloneError(f"a step of {type(part).__name__} draws random numbers from Python or NumPy")

    def _require_unchanged(self, when: str) -> None:
        problem = f"changes in {when}, but is no parameter or buffer"
        first = self.members[0]
        require_equal(network_attributes(first), self._shared, first, problem)
        for group, shared in zip(self._groups, self._of_loss, strict=True):
            with self._of(group):
                require_equal(loss_attributes(self.members[group[0]].loss), shared, first, problem)
        self._leave_out()

    def on_train_epoch_start(self) -> None:
        self._tally = EpochTally()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        for stack in self._stacks() if batch_idx == 0 else []:
            stack.watch()
        logits = self(images)
        self._require_no_draws(self.members[0])
        losses = self.losses(logits, labels)
        if self._random_state is not None:
            self._require_unchanged("a step")
            self._random_state = None
        self._tally.add(losses, logits, labels, self._ignored)
        return losses.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._step_schedules("step")

    def _step_schedules(self, interval: str) -> None:
        for k, (metrics, schedules) in enumerate(zip(self.metrics, self._schedules, strict=True)):
            for schedule in schedules if k not in self.stopped else []:
                if schedule["interval"] == interval:
                    monitored = [metrics[schedule["monitor"]]] if "monitor" in schedule else []
                    schedule["scheduler"].step(*monitored)

    def on_validation_epoch_start(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self._logits.append(evaluation_logits(logits))
        self._labels.append(batch[1])

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Compute each member's metrics as it does alone; validation has run before."""
        self._require_unchanged("an epoch")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        logits, labels = torch.cat(self._logits, dim=1), torch.cat(self._labels, dim=-1)  # (K, N, C), (K, N) or (N,)
        losses, top_logits = self._tally.by_step()  # (K, S) each
        training_metrics = running_metrics(self._tally.sums())  # (K,) each
        if self.members[0].evaluates_train():
            correct, images = count_correct_in(data.evaluation_dataloader("train"), self, self._ignored)
            training_metrics["train/acc"] = correct / images
        their_losses = [member.loss for member in self.members]
        for loss in their_losses:
            if isinstance(loss, nn.Module):
                loss.eval()  # it may differ between training and evaluation
        epoch, names = self.current_epoch, data.class_names
        found = population_metrics(their_losses, logits, labels, names, "val", epoch)
        for k, member in enumerate(self.members):
            if k in self.stopped:
                continue
            own_labels = labels if labels.ndim == 1 else labels[k]
            member.evaluated = (logits[k].cpu(), counted_labels(member.loss, own_labels).cpu())
            with self._of([k]):
                try:
                    require_finite(losses[k], member.loss, f"epoch {epoch}", top_logits[k])
                    if isinstance(measured := found[k], Exception):
                        raise measured
                except NonFiniteLossError as error:
                    self.failures[k] = error
                    self.stopped.add(k)
                    continue
                self.metrics[k] = {key: float(values[k]) for key, values in training_metrics.items()} | measured
        self._leave_out()
        self._step_schedules("epoch")


def _call_loss(loss: Any, state: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    return call(loss, state, logits, labels) if isinstance(loss, nn.Module) else loss(logits, labels)


def _random_state() -> str:
    return repr((random.getstate(), np.random.get_state()))
