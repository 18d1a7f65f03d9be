"""The one abstract LightningModule: the step, the metrics and the optimiser are written here, once."""

import functools
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.utilities.distributed import gather_all_tensors

from losslab.errors import UserError, notice_once
from losslab.losses import CrossEntropyLoss, Loss, build_loss, describe_loss, ignored_label
from losslab.models.checks import Interval, name_of, require_fitting, require_same_shape, scheduler_config
from losslab.models.epoch import (
    EpochTally,
    count_correct_in,
    counted_labels,
    ends_training,
    evaluation_logits,
    require_finite,
    running_metrics,
    split_metrics,
)

EvaluateTrain = Literal["never", "last_epoch", "every_epoch"]
"""When the training images are evaluated; see Classifier."""

Batch = tuple[Tensor, Tensor]
"""Images (B, *image_shape) float32 and labels (B,) int64."""


class Classifier(LightningModule, ABC):
    """A network with a loss; training and metrics are the same for all networks and losses.

    A subclass builds its network in `__init__`, from `self.image_shape` and `self.num_classes`, and implements
    `forward`. Its constructor has its own arguments, with types, and passes `**kwargs` on to `super().__init__`.

    Logged, once an epoch: `train/loss` and `train/acc_running` (means over the epoch's batches, while the weights
    change), `train/acc` (the training images as trained, weights at the end of the epoch, no dropout, no augmentation)
    and, under `val/` and `test/`, `loss` and the keys of losslab.metrics, each computed once over the whole split.

    Args:
        num_classes: C; the command line takes it from the data.
        image_shape: (channels, height, width); the command line takes it from the data.
        loss: maps logits (N, C) and labels (N,) to a scalar: losslab's, torch's or your own. None: cross-entropy.
        optimizer: called with the parameters. None: Adam, learning rate 0.01, fused.
        lr_scheduler: called with the optimiser. None: one cycle over all steps of the training, up to the optimiser's
            learning rate. A ReduceLROnPlateau watches its own monitor, a study's, or else val/f1/macro.
        evaluate_train: epochs after which `train/acc` is computed; it takes a third of an epoch's time.
        lr_interval: when lr_scheduler is stepped, after each "epoch" or each "step". None: each step if it counts steps
            (OneCycleLR and CyclicLR, also within a SequentialLR or ChainedScheduler), else each epoch.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        evaluate_train: EvaluateTrain = "last_epoch",
        lr_interval: Interval | None = None,
    ) -> None:
        super().__init__()
        # Arguments that are objects (of a model built in Python) are no hyper-parameters; Lightning warns of them.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        own = inspect.signature(type(self).__init__).parameters
        self._objects: dict[str, str] = {}  # names of the objects that a subclass's own arguments were given
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            value = self.hparams.pop(name)
            if name not in ("loss", "optimizer", "lr_scheduler") and name in own and own[name].default is not value:
                self._objects[name] = name_of(value)
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        self.loss = CrossEntropyLoss() if loss is None else loss
        self._loss_is_given = loss is not None
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.evaluate_train, self.lr_interval = evaluate_train, lr_interval
        self.monitor: str | None = None
        """The metric that a ReduceLROnPlateau watches, unless it names one: a study's. None: val/f1/macro."""
        self.example_input_array = torch.zeros(1, *image_shape)  # for the summary's shapes
        self._ignored: int | None = None  # the label of the images that the loss ignores
        self.train_accuracy_step = -1
        """The Trainer's global_step when `train/acc` was last measured."""
        self._tally = EpochTally()
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.evaluated: tuple[Tensor, Tensor] | None = None
        """Logits (N, C) and labels (N,) of the split last evaluated, in its order, on CPU; -1 for an ignored label."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C), without an activation, of images (N, *image_shape) float."""

    def setup(self, stage: str) -> None:
        """Check that the data have the model's shape; before a fit, also `prepare_loss`."""
        if stage == "fit":
            self.prepare_loss(self.trainer, self._datamodule)
        else:
            require_same_shape(self, self._datamodule)
            self._note_ignored()

    def prepare_loss(self, trainer: Trainer, data: Any) -> None:
        """Pass the data's class counts to a loss that asks for them, and check that a training can call it.

        `losslab fit` and `sweep` do so before they write anything, and before callbacks that average weights copy the
        model: `setup` is too late to add a buffer.

        Raises:
            UserError: the data have another shape than the model, or `losslab.models.checks.require_fitting` refuses
                the loss.
        """
        require_same_shape(self, data)
        self._note_ignored()
        counts, set_counts = getattr(data, "class_counts", None), getattr(self.loss, "set_class_counts", None)
        if counts is not None and set_counts is not None:
            set_counts(counts)
        with trainer.precision_plugin.forward_context():
            require_fitting(self.loss, self.num_classes, trainer.strategy.root_device)

    def _note_ignored(self) -> None:
        self._ignored = ignored_label(self.loss)
        if self._ignored in range(self.num_classes):
            notice_once(f"the loss ignores class {self._ignored}: its precision and recall are 0 by definition.")

    @property
    def _datamodule(self) -> Any:
        """The Trainer's data module, losslab's or another, or None if it was given loaders."""
        return getattr(self.trainer, "datamodule", None)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule."""
        if self.make_optimizer is None:
            optimizer: torch.optim.Optimizer = torch.optim.Adam(self.parameters(), lr=0.01, fused=True)
        else:
            optimizer = self.make_optimizer(self.parameters())
        if self.make_lr_scheduler is None:
            steps = self.trainer.estimated_stepping_batches
            if steps == math.inf:
                raise UserError("the training has no end: give max_epochs, max_steps or an lr_scheduler.")
            return [optimizer], [{"scheduler": one_cycle(optimizer, int(steps)), "interval": "step"}]
        scheduler = self.make_lr_scheduler(optimizer)
        return [optimizer], [scheduler_config(scheduler, self.lr_interval, self.monitor, self.trainer)]

    # Training: nothing in the step waits for the device.

    def on_train_start(self) -> None:
        # The checkpoint may date from the epoch's last batch; then Lightning starts the next epoch, with a new tally.
        # Otherwise the tally continues, and its tensors, loaded on CPU, move to the device.
        if len(self._tally.sizes) >= self.trainer.num_training_batches:
            self.on_train_epoch_start()
        self._tally = self._tally.to(self.device)

    def on_train_epoch_start(self) -> None:
        self._tally = EpochTally()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self._tally.add(loss, logits, labels, self._ignored)
        return loss

    def on_train_epoch_end(self) -> None:
        if self._tally.losses:  # a user's own training_step need not call this class's
            self._require_finite_steps()
            self.log_dict(running_metrics(self._sum_over_ranks(self._tally.sums())), prog_bar=True)
        if self.evaluates_train() and hasattr(self._datamodule, "evaluation_dataloader"):
            self.log("train/acc", self.train_accuracy())

    def evaluates_train(self) -> bool:
        """Whether `train/acc` is measured at the end of this epoch; after early stopping, `losslab fit` measures it."""
        last = self.evaluate_train == "last_epoch" and ends_training(self.trainer)
        return self.evaluate_train == "every_epoch" or last

    def train_accuracy(self) -> Tensor:
        """Return `train/acc` of the current weights, () float64."""
        self.train_accuracy_step = self.trainer.global_step
        loader = self._datamodule.evaluation_dataloader("train")
        correct, images = self._sum_over_ranks(count_correct_in(loader, self, self._ignored))
        return correct / images

    def _require_finite_steps(self) -> None:
        losses, top_logits = self._sum_over_ranks(self._tally.by_step())  # (S,) each
        require_finite(losses, self.loss, f"epoch {self.current_epoch}", top_logits)

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return sums
        return torch.stack(gather_all_tensors(sums.to(self.device))).sum(dim=0).cpu()

    # Evaluation: logits are collected, and everything is computed from all of them at the end.

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == "fit" and self._tally.losses:
            self._require_finite_steps()  # a bad step spoils the weights and so the validation: name the step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        self._logits.append(evaluation_logits(logits))
        self._labels.append(labels)
        return self._logits[-1]

    validation_step = test_step = predict_step

    def on_validation_epoch_end(self) -> None:
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        self._evaluate("test")

    def on_predict_epoch_end(self) -> None:
        self._finish_collecting()

    def _evaluate(self, prefix: str) -> None:
        logits, labels = self._finish_collecting()
        names = getattr(self._datamodule, "class_names", None) or [str(c) for c in range(self.num_classes)]
        epoch = None if self.trainer.sanity_checking else self.current_epoch
        self.log_dict(split_metrics(self.loss, logits, labels, names, prefix, epoch))

    def _finish_collecting(self) -> tuple[Tensor, Tensor]:
        logits, labels = (self._in_order(torch.cat(parts)) for parts in (self._logits, self._labels))
        self._logits, self._labels = [], []
        self.evaluated = (logits.cpu(), counted_labels(self.loss, labels).cpu())
        return logits, labels

    def _in_order(self, part: Tensor) -> Tensor:
        """Return all rows of the split in its order: rank r of W holds every W-th row, from row r on."""
        world_size = self.trainer.world_size
        if world_size == 1:
            return part
        parts = gather_all_tensors(part)
        whole = part.new_empty(sum(len(rows) for rows in parts), *part.shape[1:])
        for rank, rows in enumerate(parts):
            whole[rank::world_size] = rows
        return whole

    # Checkpoints hold plain values only, so that they load with weights_only=True.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the tally of each rank and what describes the model's objects; drop arguments that are objects."""
        so_far = [vars(self._tally)] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(so_far, vars(self._tally))
        checkpoint["epoch_so_far"] = so_far
        names = {argument: name_of(make) for argument, make in self._makers().items() if make is not None}
        checkpoint["built_with"] = {**self._objects, "loss": describe_loss(self.loss) or name_of(self.loss), **names}
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in arguments.items() if _is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the tally of the epoch in which the checkpoint was saved; a loss that is not given is built again.

        Raises:
            UserError: the checkpoint's loss is not one of losslab's, or another argument was an object, and the model
                was built without giving it.
        """
        so_far = checkpoint.get("epoch_so_far", [])
        if self.global_rank < len(so_far):  # otherwise more processes evaluate it than trained it
            self._tally = EpochTally(**so_far[self.global_rank])
        built_with = checkpoint.get("built_with", {})  # {} in a checkpoint of an earlier version
        default, ours = describe_loss(CrossEntropyLoss()), describe_loss(self.loss) or name_of(self.loss)
        loss = built_with.get("loss", default)
        if loss != default and ours == default and not self._loss_is_given:
            self.loss = _refuse("loss", loss) if isinstance(loss, str) else build_loss(loss).to(self.device)
            self._ignored = ignored_label(self.loss)
        elif loss != ours and not isinstance(self.hparams.get("loss"), dict):
            notice_once(f"the checkpoint's model was trained with the loss {loss}, and goes on with {ours}.")
        for argument in built_with.keys() - self._objects.keys() - {"loss", *self._makers()}:
            _refuse(argument, built_with[argument])
        for argument, make in self._makers().items():
            if make is None and argument in built_with:  # refused when the model trains on: a test needs neither
                setattr(self, f"make_{argument}", functools.partial(_refuse, argument, built_with[argument]))

    def _makers(self) -> dict[str, Callable[..., Any] | None]:
        return {"optimizer": self.make_optimizer, "lr_scheduler": self.make_lr_scheduler}


def _refuse(argument: str, name: str, *_: Any) -> Any:
    raise UserError(
        f"the checkpoint's model was trained with {argument}={name}, an object, which a checkpoint does not hold: give "
        f"it again, as in load_from_checkpoint(path, {argument}=...), or to the model's constructor."
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_plain([*value.keys(), *value.values()])
    parts = value if isinstance(value, list | tuple) else ()
    return isinstance(value, list | tuple | str | int | float | None) and all(map(_is_plain, parts))


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Return a schedule up to the optimiser's learning rate and down to 0 (Smith & Topin 2017, arXiv:1708.07120).

    Momentum (or Adam's beta 1), if there is any, falls from 0.95 to 0.85 while the learning rate rises, and returns.

    Args:
        optimizer: its learning rates are the peaks.
        steps: all steps of the training.
    """
    has_momentum = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0.0) > 0
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=has_momentum)
