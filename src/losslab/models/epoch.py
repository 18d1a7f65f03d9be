"""The sums of an epoch and the metrics of a split, for one classifier or a population of K.

Leading dimensions are free: a loss is () or (K,), logits are (B, C) or (K, B, C), labels (B,) or (K, B).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from losslab.errors import TrainingError, UserError, notice_once
from losslab.losses import ignored_label
from losslab.metrics import classification_metrics

IGNORED = -1
"""The label, among evaluated ones, of an image that the loss ignores."""


class NonFiniteLossError(TrainingError):
    """Training met a loss or logits that are NaN or infinite; its weights are of no use from that step on."""


def require_finite(losses: Tensor, loss: Any, where: str, top_logits: Tensor | None = None) -> None:
    """Raise NonFiniteLossError if a number is not finite, with `loss`, `where` and the first step.

    Args:
        losses: the loss of each step, (S,).
        loss: the loss function, for the message.
        where: the epoch or the split, for the message.
        top_logits: the largest logit of each image summed over the step, (S,). Most losses are finite at an infinite
            logit of the label.
    """
    bad = ~losses.isfinite()  # (S,)
    steps = (bad if top_logits is None else bad | ~top_logits.isfinite()).nonzero()  # (number of bad steps, 1)
    if len(steps):
        step = int(steps[0])
        what, values = f"the loss {loss}", losses
        if top_logits is not None and not bad[step]:
            what, values = "the logits", top_logits
        raise NonFiniteLossError(
            f"{what} became {float(values[step])} in {where}, step {step}. "
            "Lower the learning rate, or look at the loss and the data at that step."
        )


@dataclass
class EpochTally:
    """Losses, correct predictions, sizes and largest logits of the epoch's batches so far, one entry a batch.

    The tensors stay on the device, so that no step waits for it. The fields are those of a checkpoint's "epoch_so_far".
    Images that the loss ignores are neither correct nor counted in a size, which is then a tensor, (...).
    """

    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    sizes: list[Any] = field(default_factory=list)
    top_logits: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        missing = self.losses[len(self.top_logits) :]  # in a checkpoint of an earlier version
        self.top_logits = [*(torch.zeros_like(loss, dtype=torch.float32) for loss in missing), *self.top_logits]

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, ignored: int | None = None) -> None:
        """Add a batch: its loss (...), logits (..., B, C) and labels (..., B), and the label that the loss ignores."""
        top, predicted = logits.detach().max(dim=-1)  # (..., B)
        correct, size = count_correct(predicted, labels, ignored)
        if ignored is not None:
            top = top.masked_fill(labels == ignored, 0)
        self.losses.append(loss.detach())
        self.correct.append(correct)
        self.sizes.append(size)
        self.top_logits.append(evaluation_logits(top).sum(dim=-1))

    def to(self, device: torch.device) -> "EpochTally":
        """Return the same tally with its tensors on `device`."""
        lists = (self.losses, self.correct, self.sizes, self.top_logits)
        return EpochTally(*([x.to(device) if isinstance(x, Tensor) else x for x in entries] for entries in lists))

    def by_step(self) -> Tensor:
        """Return the losses and the largest logits of S steps, (2, ..., S) float64 on CPU."""
        return torch.stack([torch.stack(part, dim=-1).cpu().double() for part in (self.losses, self.top_logits)])

    def sums(self) -> Tensor:
        """Return (3, ...) float64 on CPU: the losses summed over all images, the correct images, all images."""
        shape = self.losses[0].shape
        sizes = torch.stack([torch.as_tensor(x).cpu().expand(shape) for x in self.sizes], dim=-1).double()  # (..., S)
        correct = torch.stack(self.correct).sum(dim=0).cpu().double()  # (...)
        losses = (self.by_step()[0] * sizes).sum(dim=-1)  # (...)
        return torch.stack([losses, correct, sizes.sum(dim=-1)])


def count_correct(predicted: Tensor, labels: Tensor, ignored: int | None = None) -> tuple[Tensor, int | Tensor]:
    """Return the numbers of correct images and of all, (...) each, without those whose label is `ignored`.

    Args:
        predicted: the classes with the largest logits, (..., B).
        labels: (..., B).
        ignored: the label that the loss ignores, or None; then the second number is an int.
    """
    correct = predicted == labels
    if ignored is None:
        return correct.sum(dim=-1), labels.shape[-1]
    kept = labels != ignored
    return (correct & kept).sum(dim=-1), kept.sum(dim=-1)


def running_metrics(sums: Tensor) -> dict[str, Tensor]:
    """Return `train/loss` and `train/acc_running`, (...) each, of `EpochTally.sums`.

    Raises:
        UserError: the loss ignores all images.
    """
    loss, correct, images = sums
    if not bool((images > 0).all()):
        raise _all_ignored("training")
    return {"train/loss": loss / images, "train/acc_running": correct / images}


def ends_training(trainer: Trainer) -> bool:
    """Return whether the epoch that ends is the last one, by epochs, by steps or because the Trainer was told to stop.

    An early stopping is known only once its callback has seen the epoch's metrics.
    """
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    return last_epoch or 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop


def count_correct_in(loader: Any, model: LightningModule, ignored: int | None = None) -> Tensor:
    """Return (2, ...) float64 on CPU: the correct images of a split and all of them, in eval mode.

    Args:
        loader: batches of images (B, *image_shape) and labels (B,).
        model: attached to a Trainer, whose precision applies; a module in eval mode (a frozen batch norm) stays so.
        ignored: the label that the loss ignores, or None; these images are not counted.
    """
    precision = model.trainer.precision_plugin
    trained = [module for module in model.modules() if module.training]
    model.eval()
    correct = size = torch.zeros((), dtype=torch.int64)
    with torch.inference_mode(), precision.forward_context():
        for images, labels in map(precision.convert_input, loader):
            more, counted = count_correct(model(images).argmax(dim=-1), labels, ignored)
            correct, size = correct + more, size + counted
    for module in trained:
        module.training = True
    return torch.stack([correct.cpu().double(), size.cpu().double().expand_as(correct)])


def evaluation_logits(logits: Tensor) -> Tensor:
    """Return logits in the precision that metrics are computed in: float64 as they are, others as float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def split_metrics(
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    prefix: str,
    epoch: int | None,
) -> dict[str, Tensor]:
    """Return `<prefix>/loss` and the keys of losslab.metrics under the prefix, each computed over a whole split.

    Images that the loss ignores are left out of all of them.

    Args:
        loss: a module or function (logits, labels) -> scalar.
        logits: (N, C).
        labels: (N,).
        class_names: C names.
        prefix: "val" or "test".
        epoch: the number to name where a number is not finite; None, before a training, checks the logits only.

    Raises:
        NonFiniteLossError: the split's loss or a logit is NaN or infinite.
        UserError: the loss ignores all images.
    """
    split = "validation" if prefix == "val" else prefix
    kept = counted_labels(loss, labels) != IGNORED
    value = loss(logits, labels)
    logits, labels = logits[kept], labels[kept]
    if not len(labels):
        raise _all_ignored(split)
    _notice_probabilities(logits)
    where = f"the {split} split" if epoch is None else f"the {split} split after epoch {epoch}"
    checked = torch.zeros_like(value) if epoch is None else value
    require_finite(checked.reshape(1), loss, where, evaluation_logits(logits.amax(dim=1)).sum().reshape(1))
    metrics = {"loss": value, **classification_metrics(logits, labels, class_names)}
    return {f"{prefix}/{key}": metric for key, metric in metrics.items()}


def population_metrics(
    losses: Sequence[Callable[[Tensor, Tensor], Tensor]],
    logits: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    prefix: str,
    epoch: int,
) -> list[dict[str, float] | Exception]:
    """Return the numbers of `split_metrics` for each of K members, counted for all of them at once.

    A member with an ignored label or a number that is not finite is left to `split_metrics` alone.

    Args:
        losses: K modules or functions (logits, labels) -> scalar.
        logits: (K, N, C).
        labels: (K, N), or (N,) for all members.
        class_names: C names.
        prefix: "val" or "test".
        epoch: the number to name where a number is not finite.

    Returns:
        By member: its numbers, or the error that `split_metrics` raises for it; one for want of memory is raised.
    """
    labels = labels.expand(logits.shape[:2])  # (K, N)
    values = torch.stack([_value_or_nan(*given) for given in zip(losses, logits, labels, strict=True)])
    ignored = [IGNORED if (label := ignored_label(loss)) is None else label for loss in losses]
    has_ignored = (labels == torch.tensor(ignored, device=labels.device)[:, None]).any(dim=1)  # (K,)
    finite = evaluation_logits(logits.amax(dim=-1)).sum(dim=-1).isfinite() & values.isfinite()  # (K,)
    counted = (finite & ~has_ignored).nonzero().flatten()  # (K',)
    found: list[dict[str, float] | Exception] = [{} for _ in losses]
    for k in {*range(len(losses))}.difference(counted.tolist()):
        try:
            alone = split_metrics(losses[k], logits[k], labels[k], class_names, prefix, epoch)
            found[k] = {key: float(value) for key, value in alone.items()}
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a loss of the user's own may raise any
            found[k] = error
    if 0 < len(counted) < len(losses):
        logits, labels, values = logits[counted], labels[counted], values[counted]
    if len(counted):
        _notice_probabilities(logits)
        metrics = {"loss": values.detach(), **classification_metrics(logits, labels, class_names)}
        keys = [f"{prefix}/{key}" for key in metrics]
        columns = torch.stack([*metrics.values()], dim=1).cpu().tolist()  # (K', metrics): one wait for the device
        for k, numbers in zip(counted.tolist(), columns, strict=True):
            found[k] = dict(zip(keys, numbers, strict=True))
    return found


def _value_or_nan(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Return a loss, (); NaN if it raises an error, which `split_metrics` raises again."""
    try:
        return loss(logits, labels).detach().reshape(())
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return logits.new_tensor(torch.nan)


def _notice_probabilities(logits: Tensor) -> None:
    """Give notice, once, if the rows of logits (..., N, C) all are probabilities, of one member or more."""
    positive = (logits >= 0).flatten(start_dim=-2).all(dim=-1)  # (...)
    if bool(positive.any()) and bool((positive & ((logits.sum(dim=-1) - 1).abs() < 1e-4).all(dim=-1)).any()):
        notice_once("the network returns probabilities: return logits, without a softmax, which the losses apply.")


def counted_labels(loss: Any, labels: Tensor) -> Tensor:
    """Return labels (N,) with IGNORED in place of those that the loss ignores."""
    ignored = ignored_label(loss)
    return labels if ignored is None else torch.where(labels == ignored, IGNORED, labels)


def _all_ignored(split: str) -> UserError:
    return UserError(
        f"all {split} images have the label that the loss ignores: nothing is left to measure. "
        "Change the loss's ignore_index, or the data."
    )
