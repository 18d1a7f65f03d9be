"""Many trainings as one: classifiers of one architecture, stacked and vectorised, each as if it were alone."""

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from losslab.data import EvaluationBatches, ImageDataModule
from losslab.metrics import classification_metrics
from losslab.models import Classifier, NonFiniteLossError
from losslab.models.classifier import require_finite
from losslab.run import SEED, Config, Parts


class Population(LightningModule):
    """K classifiers that differ in weights, loss values, optimiser values and seeds, trained by one Trainer.

    Their parameters and buffers are stacked, (K, ...), and a step computes all members by `torch.func.vmap`. Each
    member stays a Classifier whose tensors are slices of the stacks: so it builds its own optimiser and schedule, of
    whatever class, as it does alone. The loss that is differentiated is the sum of the members' losses: no member's
    gradient contains another's, and one that became NaN spoils nobody else.

    With dropout the members draw their masks from one random stream, in which alone they would not stand at the same
    place: the results are those of other dropout masks. All else is the same arithmetic in another order.

    Args:
        members: classifiers of one class with tensors of the same shapes, and losses that differ in buffers only.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = list(members)  # a list, so that they are no submodules: what is trained are the stacks
        self.metrics: list[dict[str, float]] = [{} for _ in members]
        """Of each member: all metrics of the epoch that ended last."""
        self.failures: dict[int, NonFiniteLossError] = {}
        """Of each member whose loss became NaN or infinite: when."""
        self.stopped: set[int] = set()
        """Members that failed, or whose results nobody wants any more: nothing is measured of them."""

    def setup(self, stage: str) -> None:
        """Let the members' losses hear of the class frequencies, and stack what they are made of."""
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
        """One optimiser with the parameter groups of all members' own, whose schedules go on moving those groups."""
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
        of_all = copy.copy(optimizers[0])
        of_all.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        return of_all

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Zero the stacked gradients in place: the members' gradients are slices of them."""
        for name, stack in self._state()[0].items():
            if stack.grad is None:
                stack.grad = torch.zeros_like(stack)
                for k, member in enumerate(self.members):
                    member.get_parameter(name).grad = stack.grad[k]
        torch._foreach_zero_([stack.grad for stack in self.stacked])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (K, B, C), of each member's own images (K, B, *image_shape) or of common ones (B, *image_shape)."""
        skeleton = self.members[0].train(self.training)
        own = images.ndim > len(skeleton.image_shape) + 1

        def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
            return functional_call(skeleton, (parameters, buffers), (images,))

        return vmap(of_one, (0, 0, 0 if own else None), randomness="different")(*self._state(), images)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each member's loss, (K,), of logits (K, B, C) and labels (K, B)."""
        loss = self.members[0].loss
        if not isinstance(loss, nn.Module):
            return vmap(loss)(logits, labels)
        parameters, buffers = (
            {name.removeprefix("loss."): stack for name, stack in part.items() if name.startswith("loss.")}
            for part in self._state()
        )

        def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
            return functional_call(loss, (parameters, buffers), (logits, labels))

        return vmap(of_one)(parameters, buffers, logits, labels)

    def on_train_epoch_start(self) -> None:
        self._losses: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._sizes: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        losses = self.losses(logits, labels)
        self._losses.append(losses.detach())
        self._correct.append((logits.detach().argmax(dim=2) == labels).sum(dim=1))
        self._sizes.append(labels.shape[1])
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
        self._logits.append(logits if logits.dtype == torch.float64 else logits.float())
        self._labels.append(batch[1])

    def on_train_epoch_end(self) -> None:
        """Measure each member as it measures itself alone; validation has run before."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        logits, labels = torch.cat(self._logits, dim=1), torch.cat(self._labels)
        losses, sizes = torch.stack(self._losses, dim=1).cpu().double(), torch.tensor(self._sizes).double()
        correct = torch.stack(self._correct).sum(dim=0).cpu().double()
        evaluate_train = self.members[0].evaluates_train()
        train_accuracy = self._train_accuracy(data) if evaluate_train else []
        for k, member in enumerate(self.members):
            if k in self.stopped:
                continue
            member.evaluated = (logits[k].cpu(), labels.cpu())
            val_loss = member.loss(logits[k], labels)
            try:
                require_finite(losses[k], repr(member.loss), f"epoch {self.current_epoch}")
                split = f"the validation split after epoch {self.current_epoch}"
                require_finite(val_loss.reshape(1), repr(member.loss), split)
            except NonFiniteLossError as error:
                self.failures[k] = error
                self.stopped.add(k)
                continue
            metrics = {"loss": val_loss, **classification_metrics(logits[k], labels, data.class_names)}
            self.metrics[k] = {
                "train/loss": float(losses[k] @ sizes / sizes.sum()),
                "train/acc_running": float(correct[k] / sizes.sum()),
                **({"train/acc": train_accuracy[k]} if evaluate_train else {}),
                **{f"val/{key}": float(value) for key, value in metrics.items()},
            }
        self._step_schedules("epoch")

    def _train_accuracy(self, data: Any) -> list[float]:
        correct, count = torch.zeros(len(self.members), dtype=torch.int64, device=self.device), 0
        self.eval()
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            for images, labels in map(self.trainer.precision_plugin.convert_input, data.evaluation_dataloader("train")):
                correct += (self(images).argmax(dim=2) == labels).sum(dim=1)
                count += len(labels)
        self.train()
        return (correct.double() / count).tolist()


class PopulationBatches:
    """The batches of K seeds side by side: images (K, B, *image_shape) and labels (K, B)."""

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        self._of_each = [data.training_batches(seed) for seed in seeds]
        self.sampler = self  # Lightning tells a loader's sampler the epoch

    def set_epoch(self, epoch: int) -> None:
        for batches in self._of_each:
            batches.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._of_each[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batches in zip(*self._of_each, strict=True):
            images, labels = zip(*batches, strict=True)
            yield torch.stack(images), torch.stack(labels)


class PopulationData(LightningDataModule):
    """The images of one data module for K members: each has the order and the augmentation of its own seed.

    Args:
        data: the members' common data; set up for a fit.
        seeds: of the members, (K,).
    """

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        super().__init__()
        self.data, self.seeds = data, list(seeds)
        self.class_names = data.class_names

    @property
    def class_counts(self) -> Tensor:
        """Of the training part, (C,)."""
        return self.data.class_counts

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def evaluation_dataloader(self, split: str) -> EvaluationBatches:
        """A split as it lies, common to all members."""
        return self.data.evaluation_dataloader(split)

    def train_dataloader(self) -> "PopulationBatches":
        return PopulationBatches(self.data, self.seeds)

    def val_dataloader(self) -> EvaluationBatches:
        return self.data.val_dataloader()


OF_EACH_MEMBER = ("optimizer", "lr_scheduler", "loss")
"""Arguments of a model that members may have of their own, apart from what `shared_model_key` says of the loss."""

USUAL = {"gradient_clip_val": (None, 0), "callbacks": (None, []), "accumulate_grad_batches": (1,), "devices": (1,)}
"""Arguments of the Trainer that otherwise act on, or speak of, one model as a whole."""


def shared_model_key(config: Config, built: Parts) -> str | None:
    """What a training must have in common with the others of its population; None if it has to be trained alone.

    Args:
        config: its resolved configuration.
        built: what the configuration builds.
    """
    trainer = config["trainer"]
    if any(trainer[key] not in usual for key, usual in USUAL.items()):
        return None
    if str(trainer["precision"]).startswith("16"):  # its one loss scale would tie the members together
        return None
    optimizer = (config["model"]["init_args"].get("optimizer") or {}).get("class_path")
    if optimizer == "torch.optim.LBFGS":  # searches along one line for all its parameters
        return None
    common = copy.deepcopy({key: value for key, value in config.items() if key != SEED})
    for name in OF_EACH_MEMBER:
        common["model"]["init_args"].pop(name, None)
    common["trainer"].pop("logger")
    loss: Any = getattr(built.model, "loss", None)
    structure = _structure(loss) if isinstance(loss, nn.Module) else repr(config["model"]["init_args"].get("loss"))
    # The seed draws a long tail's images and the wrong labels: members train on the same ones.
    data_seed = config[SEED] if built.data.imbalance is not None or built.data.label_noise else None
    return json.dumps([common, optimizer, structure, data_seed], sort_keys=True, default=repr)


def _structure(module: nn.Module) -> list[Any]:
    """All of a module that is not in a tensor; of tensors, their shapes."""
    plain = {key: repr(value) for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    tensors = {
        name: None if tensor is None else [*tensor.shape, str(tensor.dtype)]
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
    }
    children = {name: _structure(child) for name, child in module.named_children()}
    return [f"{type(module).__module__}.{type(module).__qualname__}", plain, tensors, children]
