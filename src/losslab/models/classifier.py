"""The one abstract LightningModule: the step, the metrics and the optimiser are written here, once."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.utilities.distributed import gather_all_tensors

from losslab.errors import UserError
from losslab.losses import CrossEntropyLoss, Loss
from losslab.models.epoch import (
    EpochTally,
    count_correct_in,
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
        lr_scheduler: called with the optimiser, and stepped after each epoch. None: one cycle over all steps of the
            training, up to the optimiser's learning rate.
        evaluate_train: epochs after which `train/acc` is computed; it takes a third of an epoch's time.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        evaluate_train: EvaluateTrain = "last_epoch",
    ) -> None:
        super().__init__()
        # Arguments that are objects (of a model built in Python) are no hyper-parameters; Lightning warns of them.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            del self.hparams[name]
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)
        self.loss = CrossEntropyLoss() if loss is None else loss
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.evaluate_train = evaluate_train
        self.example_input_array = torch.zeros(1, *image_shape)  # for the summary's shapes
        self._tally = EpochTally()
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.evaluated: tuple[Tensor, Tensor] | None = None
        """Logits (N, C) and labels (N,) of the split last evaluated, in its order, on CPU."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C), without an activation, of images (N, *image_shape) float."""

    def setup(self, stage: str) -> None:
        """In a fit, pass the class counts to a loss that has `set_class_counts`, and check that it can be called."""
        counts = getattr(self._datamodule, "class_counts", None) if stage == "fit" else None
        set_counts = getattr(self.loss, "set_class_counts", None)
        if counts is not None and set_counts is not None:
            set_counts(counts)
        if stage == "fit" and isinstance(self.loss, Loss):
            require_fitting(self.loss, self.num_classes, self.device)

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
            steps = int(self.trainer.estimated_stepping_batches)
            return [optimizer], [{"scheduler": one_cycle(optimizer, steps), "interval": "step"}]
        scheduler = self.make_lr_scheduler(optimizer)
        monitor = {"monitor": scheduler.monitor} if isinstance(scheduler, ReduceLROnPlateau) else {}
        return [optimizer], [{"scheduler": scheduler, "interval": "epoch", **monitor}]

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
        self._tally.add(loss, logits, labels)
        return loss

    def on_train_epoch_end(self) -> None:
        self._require_finite_steps()
        self.log_dict(running_metrics(self._sum_over_ranks(self._tally.sums())), prog_bar=True)
        if self.evaluates_train() and hasattr(self._datamodule, "evaluation_dataloader"):
            loader = self._datamodule.evaluation_dataloader("train")
            correct, images = self._sum_over_ranks(count_correct_in(loader, self))
            self.log("train/acc", correct / images)

    def evaluates_train(self) -> bool:
        """Whether `train/acc` is measured at the end of the current epoch."""
        last = self.current_epoch + 1 == self.trainer.max_epochs
        return self.evaluate_train == "every_epoch" or (last and self.evaluate_train == "last_epoch")

    def _require_finite_steps(self) -> None:
        losses = self._sum_over_ranks(self._tally.losses_by_step())  # (S,)
        require_finite(losses, self.loss, f"epoch {self.current_epoch}")

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
        self.evaluated = (logits.cpu(), labels.cpu())
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
        """Add the tally of each rank, and drop constructor arguments that are objects (of a model built in Python)."""
        so_far = [vars(self._tally)] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(so_far, vars(self._tally))
        checkpoint["epoch_so_far"] = so_far
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in arguments.items() if _is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the tally of the epoch in which the checkpoint was saved."""
        so_far = checkpoint.get("epoch_so_far", [])
        if self.global_rank < len(so_far):  # otherwise more processes evaluate it than trained it
            self._tally = EpochTally(**so_far[self.global_rank])


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for part in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float | bool)


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


def require_fitting(loss: Loss, num_classes: int, device: torch.device) -> None:
    """Call a loss once with one image of each class.

    Raises:
        UserError: the loss rejects the call (class weights of another number of classes, say), or returns no scalar.
    """
    try:
        value = loss(torch.zeros(num_classes, num_classes, device=device), torch.arange(num_classes, device=device))
    except ValueError as error:
        raise UserError(str(error)) from error
    if value.ndim > 0:
        raise UserError(f"loss must return a scalar, but {loss} has reduction={loss.reduction!r}; use 'mean' or 'sum'.")
