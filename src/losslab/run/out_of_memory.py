"""Too little memory for a training, told in one line."""

import torch
from lightning.pytorch import Trainer

from losslab.errors import TrainingError


class OutOfMemoryError(TrainingError):
    """The device or the machine had too little memory for a step."""


def as_out_of_memory(error: BaseException, trainer: Trainer, batch_size: int) -> OutOfMemoryError | None:
    """The error of that name if `error` says that memory ran out, where in the training and what helps; else None."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if not on_cpu and not isinstance(error, MemoryError | torch.OutOfMemoryError):
        return None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OutOfMemoryError(
        f"out of memory in epoch {trainer.current_epoch}, step {trainer.global_step} ({reason}). Lower data.batch_size "
        f"({batch_size}) or data.eval_batch_size, or take a smaller network; the epochs before are on disk."
    )
