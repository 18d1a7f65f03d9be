"""Many classifiers as one vectorised model: each is trained as if it were alone."""

import copy
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from losslab.data import EvaluationBatches, ImageDataModule
from losslab.models import (
    Classifier,
    EpochTally,
    NonFiniteLossError,
    count_correct_in,
    evaluation_logits,
    require_finite,
    running_metrics,
    split_metrics,
)
from losslab.run import SEED, Config, Parts

MEMBERS_OWN = ("optimizer", "lr_scheduler", "loss")
"""Arguments of a model in which members may differ; of the loss, `shared_model_key` compares all but the tensors."""

NEUTRAL_SETTINGS = {
    "gradient_clip_val": (None, 0),
    "callbacks": (None, []),
    "accumulate_grad_batches": (1,),
    "devices": (1,),
}
"""Trainer settings, with the values under which members do not influence each other."""


class Population(LightningModule):
    """K classifiers that differ in weights, loss values, optimiser values and seeds, trained by one Trainer.

    Parameters and buffers are stacked, (K, ...), and a step computes all members by `torch.func.vmap`. Each member
    stays a Classifier whose tensors are slices of the stacks, so that it builds its own optimiser and schedule, of any
    class. The loss that is differentiated is the sum of the members' losses: a member's gradient depends on no other
    member, and a NaN in one leaves the others as they are.

    With dropout the members draw their masks from one random stream, so that their masks differ from those of a
    training alone. All else is the same arithmetic in another order.

    Args:
        members: classifiers of one class with tensors of the same shapes, and losses that differ in buffers only.
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
        parameters, buffers = stack_module_state(self.members)
        self._names = [list(parameters), list(buffers)]
        self.stacked = nn.ParameterList(nn.Parameter(stack.detach()) for stack in parameters.values())
        for number, stack in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{number}", stack, persistent=False)

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
        for k, member in enumerate(self.members):
            for name, stack in parameters.items():
                member.get_parameter(name).data = stack.data[k]
            for name, stack in buffers.items():
                member.get_buffer(name).data = stack.data[k]
            (optimizer,), schedules = member.configure_optimizers()
            optimizers.append(optimizer)
            self._schedules.append(schedules)
            optimizer._opt_called = True  # or its schedule would warn that it never steps
        merged = copy.copy(optimizers[0])
        merged.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return merged

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Zero the stacked gradients in place; the members' gradients are slices of them."""
        for name, stack in self._state()[0].items():
            if stack.grad is None:
                stack.grad = torch.zeros_like(stack)
                for k, member in enumerate(self.members):
                    member.get_parameter(name).grad = stack.grad[k]
        torch._foreach_zero_([stack.grad for stack in self.stacked])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (K, B, C) of each member's images (K, B, *image_shape), or of common ones (B, *image_shape)."""
        skeleton = self.members[0].train(self.training)
        own = images.ndim > len(skeleton.image_shape) + 1
        member_logits = functools.partial(functional_call, skeleton)  # (B, C)
        return vmap(member_logits, (0, 0 if own else None), randomness="different")(self._state(), images)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each member's loss, (K,), of logits (K, B, C) and labels (K, B)."""
        loss = self.members[0].loss
        if not isinstance(loss, nn.Module):
            return vmap(loss)(logits, labels)
        parameters, buffers = self._state()
        stacks = (parameters | buffers).items()
        own = {name.removeprefix("loss."): stack for name, stack in stacks if name.startswith("loss.")}
        return vmap(functools.partial(functional_call, loss))(own, (logits, labels))

    def on_train_epoch_start(self) -> None:
        self._tally = EpochTally()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        losses = self.losses(logits, labels)
        self._tally.add(losses, logits, labels)
        return losses.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._step_schedules("step")

    def _step_schedules(self, interval: str) -> None:
        for metrics, schedules in zip(self.metrics, self._schedules, strict=True):
            for schedule in schedules:
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
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        logits, labels = torch.cat(self._logits, dim=1), torch.cat(self._labels)  # (K, N, C), (N,)
        losses = self._tally.losses_by_step()  # (K, S)
        training_metrics = running_metrics(self._tally.sums())  # (K,) each
        if self.members[0].evaluates_train():
            correct, images = count_correct_in(data.evaluation_dataloader("train"), self)
            training_metrics["train/acc"] = correct / images
        for k, member in enumerate(self.members):
            if k in self.stopped:
                continue
            member.evaluated = (logits[k].cpu(), labels.cpu())
            try:
                require_finite(losses[k], member.loss, f"epoch {self.current_epoch}")
                metrics = {key: values[k] for key, values in training_metrics.items()}
                metrics |= split_metrics(member.loss, logits[k], labels, data.class_names, "val", self.current_epoch)
            except NonFiniteLossError as error:
                self.failures[k] = error
                self.stopped.add(k)
                continue
            self.metrics[k] = {key: float(value) for key, value in metrics.items()}
        self._step_schedules("epoch")


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


def shared_model_key(config: Config, parts: Parts) -> str | None:
    """Return a key that is equal for trainings that may form a population; None for one that must be trained alone.

    Args:
        config: the training's resolved configuration.
        parts: Trainer, model and data built from it.
    """
    trainer = config["trainer"]
    if any(trainer[key] not in neutral for key, neutral in NEUTRAL_SETTINGS.items()):
        return None
    if str(trainer["precision"]).startswith("16"):  # all members would share one loss scale
        return None
    optimizer = (config["model"]["init_args"].get("optimizer") or {}).get("class_path")
    if optimizer == "torch.optim.LBFGS":  # one line search for all its parameters
        return None
    shared = copy.deepcopy({key: value for key, value in config.items() if key != SEED})
    for name in MEMBERS_OWN:
        shared["model"]["init_args"].pop(name, None)
    shared["trainer"].pop("logger")
    loss: Any = getattr(parts.model, "loss", None)
    structure = _structure(loss) if isinstance(loss, nn.Module) else repr(config["model"]["init_args"].get("loss"))
    # The seed draws the images of a long tail and the wrong labels, and members share their images.
    data_seed = config[SEED] if parts.data.imbalance is not None or parts.data.label_noise else None
    return json.dumps([shared, optimizer, structure, data_seed], sort_keys=True, default=repr)


def _structure(module: nn.Module) -> list[Any]:
    """Return a module's class, attributes, tensor shapes and dtypes, and children, without the tensors' values."""
    attributes = {key: repr(value) for key, value in vars(module).items() if key[0] != "_" and key != "training"}
    tensors = {
        name: None if tensor is None else [*tensor.shape, str(tensor.dtype)]
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    children = {name: _structure(child) for name, child in module.named_children()}
    return [f"{type(module).__module__}.{type(module).__qualname__}", attributes, tensors, children]
