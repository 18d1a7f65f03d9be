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

from losslab.errors import TrainingError, UserError
from losslab.losses import CrossEntropyLoss, Loss
from losslab.metrics import classification_metrics

EvaluateTrain = Literal["never", "last_epoch", "every_epoch"]
"""When the training images are evaluated; see Classifier."""

Batch = tuple[Tensor, Tensor]
"""Images (B, *image_shape) float32 and labels (B,) int64."""


class Classifier(LightningModule, ABC):
    """A network with a loss, trained and measured in the same way whatever they are.

    A subclass builds its network in `__init__` and implements `forward`; nothing else needs to be written. It is
    final: to change a network, write another one.

    Logged, once an epoch: `train/loss` and `train/acc_running` (means over the epoch's batches, while the weights
    change), `train/acc` (the training images as trained, weights at the end of the epoch, no dropout, no augmentation)
    and, under `val/` and `test/`, `loss` and the keys of losslab.metrics, each computed once over the whole split.

    Args:
        num_classes: C; from the data module, on the command line.
        image_shape: (channels, height, width); likewise.
        loss: a module (logits (N, C), labels (N,)) -> scalar: losslab's, torch's or one's own. None: cross-entropy.
        optimizer: called with the parameters. None: Adam, learning rate 0.01, fused.
        lr_scheduler: called with the optimiser, and stepped after each epoch. None: one cycle over all steps of the
            training, up to the optimiser's learning rate.
        evaluate_train: when `train/acc` is measured, which takes a third of an epoch's time.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        loss: Loss | Callable[[Tensor, Tensor], Tensor] | None,
        optimizer: OptimizerCallable | None,
        lr_scheduler: LRSchedulerCallable | None,
        evaluate_train: EvaluateTrain,
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
        # Of the epoch so far, one entry a batch: what stays on the device until the epoch ends.
        self._losses: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._sizes: list[int] = []
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.evaluated: tuple[Tensor, Tensor] | None = None
        """Logits (N, C) and labels (N,) of the split last evaluated, in its order, on CPU."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C), without an activation, of images (N, *image_shape) float."""

    def setup(self, stage: str) -> None:
        """Tell the loss how frequent each class is, if it wants to know, and see that it can be called."""
        counts = getattr(self._datamodule, "class_counts", None) if stage == "fit" else None
        tell = getattr(self.loss, "set_class_counts", None)
        if counts is not None and tell is not None:
            tell(counts)
        if stage == "fit" and isinstance(self.loss, Loss):
            require_fitting(self.loss, self.num_classes, self.device)

    @property
    def _datamodule(self) -> Any:
        """The Trainer's data module, losslab's or another, or None if it was given loaders."""
        return getattr(self.trainer, "datamodule", None)

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule that belongs to it."""
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
        # A checkpoint brought the epoch so far. Was that the whole epoch, Lightning goes on with the next one.
        if len(self._sizes) >= self.trainer.num_training_batches:
            self.on_train_epoch_start()
        # What the checkpoint brought is still on CPU.
        self._losses, self._correct = ([x.to(self.device) for x in part] for part in (self._losses, self._correct))

    def on_train_epoch_start(self) -> None:
        self._losses, self._correct, self._sizes = [], [], []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self._losses.append(loss.detach())
        self._correct.append((logits.detach().argmax(dim=1) == labels).sum())
        self._sizes.append(len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        losses = self._training_losses()
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        correct = torch.stack(self._correct).sum().cpu().double()
        loss_sum, correct, count = self._sum_over_ranks(torch.stack([losses @ sizes, correct, sizes.sum()]))
        self.log_dict({"train/loss": loss_sum / count, "train/acc_running": correct / count}, prog_bar=True)
        if self.evaluates_train() and hasattr(self._datamodule, "evaluation_dataloader"):
            self.log("train/acc", self._train_accuracy())

    def evaluates_train(self) -> bool:
        """Whether `train/acc` is measured at the end of the current epoch."""
        last = self.current_epoch + 1 == self.trainer.max_epochs
        return self.evaluate_train == "every_epoch" or (last and self.evaluate_train == "last_epoch")

    def _training_losses(self) -> Tensor:
        """The epoch's losses, (S,) float64 on CPU, all finite: else NonFiniteLossError."""
        losses = torch.stack(self._losses).cpu().double()
        require_finite(self._sum_over_ranks(losses), repr(self.loss), f"epoch {self.current_epoch}")
        return losses

    def _train_accuracy(self) -> Tensor:
        loader = self._datamodule.evaluation_dataloader("train")
        correct, count = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.eval()
        with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
            for images, labels in map(self.trainer.precision_plugin.convert_input, loader):
                correct += (self(images).argmax(dim=1) == labels).sum()
                count += len(labels)
        self.train()
        correct, count = self._sum_over_ranks(torch.stack([correct, count]).cpu().double())
        return correct / count

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return sums
        return torch.stack(gather_all_tensors(sums.to(self.device))).sum(dim=0).cpu()

    # Evaluation: logits are collected, and everything is computed from all of them at the end.

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == "fit" and self._losses:
            self._training_losses()  # a bad step spoils the weights: name it, not the validation that it spoils too

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._collect(batch)

    def _collect(self, batch: Batch) -> Tensor:
        images, labels = batch
        logits = self(images)
        self._logits.append(logits if logits.dtype == torch.float64 else logits.float())
        self._labels.append(labels)
        return self._logits[-1]

    def on_validation_epoch_end(self) -> None:
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        self._evaluate("test")

    def on_predict_epoch_end(self) -> None:
        self._finish_collecting()

    def _evaluate(self, prefix: str) -> None:
        logits, labels = self._finish_collecting()
        loss = self.loss(logits, labels)
        if not self.trainer.sanity_checking:
            where = f"the {'validation' if prefix == 'val' else prefix} split after epoch {self.current_epoch}"
            require_finite(loss.reshape(1), repr(self.loss), where)
        names = getattr(self._datamodule, "class_names", None) or [str(c) for c in range(self.num_classes)]
        metrics = {"loss": loss, **classification_metrics(logits, labels, names)}
        self.log_dict({f"{prefix}/{key}": value for key, value in metrics.items()})

    def _finish_collecting(self) -> tuple[Tensor, Tensor]:
        logits, labels = (self._in_order(torch.cat(parts)) for parts in (self._logits, self._labels))
        self._logits, self._labels = [], []
        self.evaluated = (logits.cpu(), labels.cpu())
        return logits, labels

    def _in_order(self, part: Tensor) -> Tensor:
        """Rank r holds every W-th row of the split from row r on: put all of them together again."""
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
        """Keep the epoch so far, and drop constructor arguments that are objects (a model built in Python has them)."""
        so_far = {"losses": self._losses, "correct": self._correct, "sizes": self._sizes}
        of_each_rank = [so_far] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(of_each_rank, so_far)
        checkpoint["epoch_so_far"] = of_each_rank
        arguments = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in arguments.items() if _is_plain(v)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the epoch in the middle of which the checkpoint was saved."""
        of_each_rank = checkpoint.get("epoch_so_far", [])
        if self.global_rank < len(of_each_rank):  # else it is evaluated by more processes than it was trained by
            so_far = of_each_rank[self.global_rank]
            self._losses, self._correct, self._sizes = so_far["losses"], so_far["correct"], so_far["sizes"]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for part in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float | bool)


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    """Up to the optimiser's learning rate and down to nothing, over all steps (Smith & Topin 2017, arXiv:1708.07120).

    Where there is momentum (or Adam's beta 1), it goes from 0.95 to 0.85 and back, against the learning rate.
    """
    has_momentum = "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0.0) > 0
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps=steps, cycle_momentum=has_momentum)


def require_fitting(loss: Loss, num_classes: int, device: torch.device) -> None:
    """Call a loss once with one image of each class.

    Raises:
        UserError: it refuses the call (class weights of another number of classes, say), or gives no scalar.
    """
    try:
        value = loss(torch.zeros(num_classes, num_classes, device=device), torch.arange(num_classes, device=device))
    except ValueError as error:
        raise UserError(str(error)) from error
    if value.ndim > 0:
        raise UserError(f"loss must give a scalar, but {loss} has reduction={loss.reduction!r}; use 'mean' or 'sum'.")


class NonFiniteLossError(TrainingError):
    """Training met a loss that is NaN or infinite; its weights are of no use from that step on."""


def require_finite(losses: Tensor, what: str, where: str) -> None:
    """Raise NonFiniteLossError if one of `losses` (S,) is not finite: it names the loss, `where` and the first step."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss {what} became {float(losses[step])} in {where}, step {step}. "
            "Lower the learning rate, or look at the loss and the data at that step."
        )
