"""Many classifiers as one vectorised model: each is trained as if it were alone."""

import copy
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from losslab.data import EvaluationBatches, ImageDataModule
from losslab.losses import ignored_label
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
from losslab.sweep.eligibility import TrainAloneError, shared_attributes


class Population(LightningModule):
    """K classifiers that differ in weights, loss values, optimiser values and seeds, trained by one Trainer.

    Parameters and buffers are stacked, (K, ...), and a step computes all members by `torch.func.vmap`. Each member
    stays a Classifier whose tensors are slices of the stacks, so that it builds its own optimiser, any of torch.optim
    but LBFGS, and its own schedule, of any class. The loss that is differentiated is the sum of the members' losses: a
    member's gradient depends on no other member, and a NaN in one leaves the others as they are.

    With dropout the members draw their masks from one random stream, so that their masks differ from those of a
    training alone. All else is the same arithmetic in another order.

    Args:
        members: classifiers of one class with tensors of the same shapes, and losses that differ in buffers only, for
            which `losslab.sweep.eligibility.why_alone` gives no reason. Their own steps and hooks are not called.

    Raises:
        TrainAloneError: in a fit, members turned out to differ in other attributes, or to change them.
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

    def setup(self, stage: str) -> None:
        """Set up the members (class counts of their losses), and stack their parameters and buffers."""
        for member in self.members:
            member.trainer = self.trainer
            member.setup(stage)
        self._ignored = ignored_label(self.members[0].loss)  # members' losses differ in tensors only
        parameters, buffers = stack_module_state(self.members)
        self._names = [list(parameters), list(buffers)]
        self.stacked = nn.ParameterList(nn.Parameter(p.detach(), p.requires_grad) for p in parameters.values())
        for number, stack in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{number}", stack, persistent=False)

    def _require_shared(self, member: Classifier, problem: str) -> None:
        """Raise TrainAloneError, which names attributes, unless the member has what all members share."""
        own = shared_attributes(member)
        if names := sorted(name for name in {*own, *self._shared} if own.get(name) != self._shared.get(name)):
            raise TrainAloneError(f"{', '.join(names)} of {type(member).__name__} {problem}")

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parameters, buffers = self._names
        return (
            dict(zip(parameters, self.stacked, strict=True)),
            {name: self.get_buffer(f"buffer_{number}") for number, name in enumerate(buffers)},
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one optimiser with the parameter groups of the members' own, on which their schedules keep acting."""
        parameters, buffers = self._state()
        optimizers: list[torch.optim.Optimizer] = []
        self._schedules: list[list[dict[str, Any]]] = []
        self._gradients: dict[str, Tensor | None] = {}
        for k, member in enumerate(self.members):
            for name, stack in parameters.items():
                member.get_parameter(name).data = stack.data[k]
            for name, stack in buffers.items():
                member.get_buffer(name).data = stack.data[k]
            (optimizer,), schedules = member.configure_optimizers()
            kind = type(optimizer)
            if not kind.__module__.startswith("torch.optim.") or isinstance(optimizer, torch.optim.LBFGS):
                raise TrainAloneError(f"{kind.__name__}.step may act on all of its parameters at once")
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                raise TrainAloneError(f"{kind.__name__} has hooks")
            optimizers.append(optimizer)
            self._schedules.append(schedules)
            optimizer._opt_called = True  # or its schedule would warn that it never steps
        self._shared = shared_attributes(self.members[0])  # now that class counts and dtypes are those of the training
        self._random_state = _random_state()
        for member in self.members[1:]:
            self._require_shared(member, "differs between members, but is no parameter or buffer")
        merged = copy.copy(optimizers[0])
        merged.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return merged

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Zero the stacked gradients in place; the members' gradients are slices of them."""
        if gradients := [stack.grad for stack in self.stacked if stack.grad is not None]:
            torch._foreach_zero_(gradients)

    def on_after_backward(self) -> None:
        """Give the members their slices of gradients that are new (validation drops the former ones), or none."""
        for name, stack in zip(self._names[0], self.stacked, strict=True):
            if stack.grad is not self._gradients.get(name):
                self._gradients[name] = stack.grad
                for k, member in enumerate(self.members):
                    member.get_parameter(name).grad = None if stack.grad is None else stack.grad[k]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (K, B, C) of each member's images (K, B, *image_shape), or of common ones (B, *image_shape)."""
        skeleton = self.members[0].train(self.training)
        own = images.ndim > len(skeleton.image_shape) + 1
        parameters, buffers = self._state()
        member_logits = functools.partial(_call, skeleton)  # (B, C)
        return vmap(member_logits, (0, 0 if own else None), randomness="different")(parameters | buffers, images)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each member's loss, (K,), of logits (K, B, C) and labels (K, B)."""
        loss = self.members[0].loss
        if not isinstance(loss, nn.Module):
            return vmap(loss)(logits, labels)
        parameters, buffers = self._state()
        stacks = (parameters | buffers).items()
        own = {name.removeprefix("loss."): stack for name, stack in stacks if name.startswith("loss.")}
        return vmap(functools.partial(_call, loss))(own, logits, labels)

    def on_train_epoch_start(self) -> None:
        self._tally = EpochTally()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        losses = self.losses(logits, labels)
        if not self._tally.losses and not self.current_epoch:
            self._check_first_step(losses)
        self._tally.add(losses, logits, labels, self._ignored)
        return losses.sum()

    def _check_first_step(self, losses: Tensor) -> None:
        if losses.shape != (len(self.members),):
            raise TrainAloneError(f"the loss {self.members[0].loss} returns no scalar")
        if _random_state() != self._random_state:
            raise TrainAloneError(
                f"a step of {type(self.members[0]).__name__} draws random numbers from Python or NumPy"
            )
        self._require_shared(self.members[0], "changes in a step, but is no parameter or buffer")

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

    def on_train_epoch_end(self) -> None:
        """Compute each member's metrics as it does alone; validation has run before."""
        self._require_shared(self.members[0], "changes in an epoch, but is no parameter or buffer")
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
            try:
                require_finite(losses[k], member.loss, f"epoch {self.current_epoch}", top_logits[k])
                metrics = {key: values[k] for key, values in training_metrics.items()}
                metrics |= split_metrics(member.loss, logits[k], labels, data.class_names, "val", self.current_epoch)
            except NonFiniteLossError as error:
                self.failures[k] = error
                self.stopped.add(k)
                continue
            self.metrics[k] = {key: float(value) for key, value in metrics.items()}
        self._step_schedules("epoch")


def _call(module: nn.Module, state: dict[str, Tensor], *arguments: Tensor) -> Tensor:
    """Call a module with these parameters and buffers in place of its own.

    Raises:
        TrainAloneError: the module replaces a buffer; a new value that is not written into the old one would be lost.
    """
    before = dict(state)
    output: Tensor = functional_call(module, state, arguments)
    if replaced := [name for name, tensor in before.items() if state[name] is not tensor]:
        raise TrainAloneError(f"{type(module).__name__} assigns a new tensor to {', '.join(replaced)}")
    return output


def _random_state() -> str:
    return repr((random.getstate(), np.random.get_state()))


class PopulationBatches:
    """Yields the batches of K seeds side by side: images (K, B, *image_shape) and labels (K, B)."""

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        self._batches = [data.training_batches(seed) for seed in seeds]
        self.sampler = self  # Lightning calls set_epoch of a loader's sampler

    def set_epoch(self, epoch: int) -> None:
        for batches in self._batches:
            batches.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batches in zip(*self._batches, strict=True):
            images, labels = zip(*batches, strict=True)
            yield torch.stack(images), torch.stack(labels)  # (K, B, *image_shape), (K, B)


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
