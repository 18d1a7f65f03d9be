"""Many classifiers as one vectorised model: each is trained as if it were alone."""

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.func import vmap

from losslab.data import EvaluationBatches, ImageDataModule
from losslab.models import (
    Classifier,
    EpochTally,
    NonFiniteLossError,
    count_correct_in,
    counted_labels,
    evaluation_logits,
    require_finite,
    running_metrics,
    split_metrics,
)
from losslab.sweep.eligibility import (
    TrainAloneError,
    ignored_class,
    loss_attributes,
    member_attributes,
    network_attributes,
    require_equal,
)
from losslab.sweep.stack import Stack, call, hiding_loss
from losslab.sweep.training import describe_error


class Population(LightningModule):
    """K classifiers that differ in weights, losses, optimiser values and seeds, trained by one Trainer.

    Parameters and buffers are stacked, (K, ...). A step computes all networks by one `torch.func.vmap`, and the losses
    by one for each group of members whose losses differ in tensors only. Each member stays a Classifier whose tensors
    are slices of the stacks, so that it builds its own optimiser, any of torch.optim but LBFGS, and its own schedule,
    of any class. The loss that is differentiated is the sum of the members' losses: a member's gradient depends on no
    other member, and a NaN in one leaves the others as they are.

    With dropout the members draw their masks from one random stream, so that their masks differ from those of a
    training alone. All else is the same arithmetic in another order.

    Args:
        members: classifiers of one class with networks of one structure, and any losses, for which
            `losslab.sweep.eligibility.why_alone` gives no reason. Their own steps and hooks are not called.

    Raises:
        TrainAloneError: in a fit, members turned out to differ in other attributes of their networks, or to change
            attributes; or a loss or an optimiser cannot be computed so.
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
                member.setup(stage)
            groups.setdefault(repr(loss_attributes(member.loss)), []).append(k)
        self._leave_out()
        first, self._groups = self.members[0], list(groups.values())
        shared = member_attributes(first)
        for member in self.members[1:]:
            require_equal(member_attributes(member), shared, member, "differs between members")
        self._ignored = ignored_class(first)
        self.network = Stack(self.members, apart="loss.")
        losses = [[self.members[k].loss for k in group] for group in self._groups]
        self.of_losses = nn.ModuleList(
            Stack([loss for loss in group if isinstance(loss, nn.Module)]) for group in losses
        )
        device = self.trainer.strategy.root_device
        order = torch.tensor([k for group in self._groups for k in group], device=device)  # a group is a slice of it
        self._is_sorted = bool((order.diff() > 0).all())
        self._order, self._places = order, order.argsort()  # (K,)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one optimiser with the parameter groups of the members' own, on which their schedules keep acting."""
        for stack in self._stacks():
            stack.give_slices()
        optimizers: list[torch.optim.Optimizer] = []
        self._schedules: list[list[dict[str, Any]]] = []
        for k, member in enumerate(self.members):
            with self._of([k]):
                (optimizer,), schedules = member.configure_optimizers()
                kind = type(optimizer)
                if not kind.__module__.startswith("torch.optim.") or isinstance(optimizer, torch.optim.LBFGS):
                    raise TrainAloneError(f"{kind.__name__}.step may act on all of its parameters at once")
                if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                    raise TrainAloneError(f"{kind.__name__} has hooks")
                optimizers.append(optimizer)
                self._schedules.append(schedules)
                optimizer._opt_called = True  # or its schedule would warn that it never steps
        self._leave_out()
        # Now that class counts and dtypes are those of the training.
        self._shared = network_attributes(self.members[0])
        self._of_loss = [loss_attributes(self.members[group[0]].loss) for group in self._groups]
        self._random_state: str | None = _random_state()
        merged = copy.copy(optimizers[0])
        merged.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return merged

    def _stacks(self) -> list[Stack]:
        return [self.network, *self.of_losses]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Zero the stacked gradients in place; the members' gradients are slices of them."""
        if gradients := [stack.grad for stack in self.parameters() if stack.grad is not None]:
            torch._foreach_zero_(gradients)

    def on_after_backward(self) -> None:
        for stack in self._stacks():
            stack.give_gradients()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (K, B, C) of each member's images (K, B, *image_shape), or of common ones (B, *image_shape)."""
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
            logits, labels = logits[self._order], labels[self._order] if own else labels
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
        return losses if self._is_sorted else losses[self._places]

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
        logits, labels = torch.cat(self._logits, dim=1), torch.cat(self._labels)  # (K, N, C), (N,)
        losses, top_logits = self._tally.by_step()  # (K, S) each
        training_metrics = running_metrics(self._tally.sums())  # (K,) each
        if self.members[0].evaluates_train():
            correct, images = count_correct_in(data.evaluation_dataloader("train"), self, self._ignored)
            training_metrics["train/acc"] = correct / images
        for k, member in enumerate(self.members):
            if k in self.stopped:
                continue
            member.eval()  # a loss may differ between training and evaluation
            member.evaluated = (logits[k].cpu(), counted_labels(member.loss, labels).cpu())
            with self._of([k]):
                try:
                    require_finite(losses[k], member.loss, f"epoch {self.current_epoch}", top_logits[k])
                    metrics = {key: values[k] for key, values in training_metrics.items()}
                    epoch = self.current_epoch
                    metrics |= split_metrics(member.loss, logits[k], labels, data.class_names, "val", epoch)
                except NonFiniteLossError as error:
                    self.failures[k] = error
                    self.stopped.add(k)
                    continue
                self.metrics[k] = {key: float(value) for key, value in metrics.items()}
        self._leave_out()
        self._step_schedules("epoch")


def _call_loss(loss: Any, state: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    return call(loss, state, logits, labels) if isinstance(loss, nn.Module) else loss(logits, labels)


def _random_state() -> str:
    return repr((random.getstate(), np.random.get_state()))


class PopulationBatches:
    """Yields the batches of K seeds: images (K, B, *image_shape) and labels (K, B).

    Where all seeds are the same, so are the batches, and one is yielded: (B, *image_shape) and (B,).
    """

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        distinct = list(dict.fromkeys(seeds))
        self._batches = [data.training_batches(seed) for seed in distinct]
        self._of_member = [distinct.index(seed) for seed in seeds]
        self.sampler = self  # Lightning calls set_epoch of a loader's sampler

    def set_epoch(self, epoch: int) -> None:
        for batches in self._batches:
            batches.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if len(self._batches) == 1:
            yield from self._batches[0]
            return
        for batches in zip(*self._batches, strict=True):
            images, labels = zip(*batches, strict=True)
            # (K, B, *image_shape), (K, B)
            yield torch.stack([images[b] for b in self._of_member]), torch.stack([labels[b] for b in self._of_member])


class PopulationData(LightningDataModule):
    """One data module's images for K members, each with the order and the augmentation of its own seed.

    Args:
        data: the members' data, set up for a fit.
        seeds: one for each member.
    """

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        super().__init__()
        self.data, self.seeds = data, list(seeds)
        self.class_names = data.class_names

    @property
    def class_counts(self) -> Tensor:
        """Images of each class in the training part, (C,)."""
        return self.data.class_counts

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def evaluation_dataloader(self, split: str) -> EvaluationBatches:
        """Return the batches of a split, in its order and without augmentation, common to all members."""
        return self.data.evaluation_dataloader(split)

    def train_dataloader(self) -> PopulationBatches:
        return PopulationBatches(self.data, self.seeds)

    def val_dataloader(self) -> EvaluationBatches:
        return self.data.val_dataloader()
