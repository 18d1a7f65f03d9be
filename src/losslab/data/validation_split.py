"""Which of the training images are for validation."""

import numpy as np
import torch
from torch import Tensor

from losslab.errors import UserError


def validation_split(
    labels: Tensor, class_names: tuple[str, ...], val_size: int, seed: int, data_name: str
) -> tuple[Tensor, Tensor]:
    """Draw `val_size` images, stratified by class.

    Args:
        labels: (N,) int64 in 0..C-1.
        class_names: C names, for the messages.
        val_size: in C..N-C.
        seed: of the draw.
        data_name: for the messages.

    Returns:
        Positions of the training and of the validation images, int64, each in ascending order.

    Raises:
        UserError: a class has fewer than two images, or `val_size` is out of its range.
    """
    from sklearn.model_selection import train_test_split  # imported here: it takes 2 s, and most commands need none

    total, classes = len(labels), len(class_names)
    counts = torch.bincount(labels, minlength=classes)
    if counts.min() < 2:
        few = ", ".join(class_names[c] for c in torch.nonzero(counts < 2).flatten().tolist())
        raise UserError(
            f"every class needs two or more training images, one to train and one to validate on; "
            f"of {data_name}'s {total:,} images there are fewer for: {few}."
        )
    if not classes <= val_size <= total - classes:
        raise UserError(
            f"data.val_size must be in {classes}..{total - classes:,} for {total:,} images of {classes} classes, "
            f"got {val_size:,}."
        )
    train, val = train_test_split(np.arange(total), test_size=val_size, stratify=labels.numpy(), random_state=seed)
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(val))
