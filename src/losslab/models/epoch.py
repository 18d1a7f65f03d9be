"""The sums of an epoch and the metrics of a split, for one classifier or a population of K.

Leading dimensions are free: a loss is () or (K,), logits are (B, C) or (K, B, C), labels (B,) or (K, B).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from losslab.errors import TrainingError
from losslab.metrics import classification_metrics


class NonFiniteLossError(TrainingError):
    """Training met a loss that is NaN or infinite; its weights are of no use from that step on."""


def require_finite(losses: Tensor, loss: Any, where: str) -> None:
    """Raise NonFiniteLossError if one of `losses` (S,) is not finite, with `loss`, `where` and the first step."""
    bad = (~losses.isfinite()).nonzero()  # (number of bad steps, 1)
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss {loss} became {float(losses[step])} in {where}, step {step}. "
            "Lower the learning rate, or look at the loss and the data at that step."
        )


@dataclass
class EpochTally:
    """Losses, correct predictions and sizes of the epoch's batches so far, one entry a batch.

    The tensors stay on the device, so that no step waits for it. The fields are those of a checkpoint's "epoch_so_far".
    """

    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its loss (...), logits (..., B, C) and labels (..., B)."""
        self.losses.append(loss.detach())
        self.correct.append(count_correct(logits.detach(), labels))
        self.sizes.append(labels.shape[-1])

    def to(self, device: torch.device) -> "EpochTally":
        """Return the same tally with its tensors on `device`."""
        return EpochTally([x.to(device) for x in self.losses], [x.to(device) for x in self.correct], self.sizes)

    def losses_by_step(self) -> Tensor:
        """Return the S losses, (..., S) float64 on CPU."""
        return torch.stack(self.losses, dim=-1).cpu().double()

    def sums(self) -> Tensor:
        """Return (3, ...) float64 on CPU: the losses summed over all images, the correct images, all images."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)  # (S,)
        correct = torch.stack(self.correct).sum(dim=0).cpu().double()  # (...)
        return torch.stack([self.losses_by_step() @ sizes, correct, sizes.sum().expand_as(correct)])


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of images whose largest logit is their label's, (...), of logits (..., B, C)."""
    return (logits.argmax(dim=-1) == labels).sum(dim=-1)


def running_metrics(sums: Tensor) -> dict[str, Tensor]:
    """Return `train/loss` and `train/acc_running`, (...) each, of `EpochTally.sums`."""
    loss, correct, images = sums
    return {"train/loss": loss / images, "train/acc_running": correct / images}


def count_correct_in(loader: Any, model: LightningModule) -> Tensor:
    """Return (2, ...) float64 on CPU: the correct images of a split and all of them, in eval mode.

    Args:
        loader: batches of images (B, *image_shape) and labels (B,).
        model: attached to a Trainer, whose precision applies; in training mode afterwards.
    """
    precision = model.trainer.precision_plugin
    model.eval()
    with torch.inference_mode(), precision.forward_context():
        batches = [
            (count_correct(model(images), labels), len(labels))
            for images, labels in map(precision.convert_input, loader)
        ]
    model.train()
    correct = torch.stack([correct for correct, _ in batches]).sum(dim=0).cpu().double()
    return torch.stack([correct, torch.full_like(correct, sum(size for _, size in batches))])


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

    Args:
        loss: a module or function (logits, labels) -> scalar.
        logits: (N, C).
        labels: (N,).
        class_names: C names.
        prefix: "val" or "test".
        epoch: the number to name where the loss is not finite; None does not check it.

    Raises:
        NonFiniteLossError: the split's loss is NaN or infinite.
    """
    value = loss(logits, labels)
    if epoch is not None:
        split = "validation" if prefix == "val" else prefix
        require_finite(value.reshape(1), loss, f"the {split} split after epoch {epoch}")
    metrics = {"loss": value, **classification_metrics(logits, labels, class_names)}
    return {f"{prefix}/{key}": metric for key, metric in metrics.items()}
