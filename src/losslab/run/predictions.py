"""predictions.npz: what a network says of each image of a split."""

import io
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from losslab.run.run_folder import write_whole

if TYPE_CHECKING:
    from torch import Tensor


def write_predictions(path: Path, evaluated: "tuple[Tensor, Tensor]") -> None:
    """Write logits (N, C) and labels (N,) of a split, in its order, as float32 and int64."""
    logits, labels = evaluated
    content = io.BytesIO()
    np.savez(content, logits=logits.float().numpy(), labels=labels.numpy())
    write_whole(path, content.getvalue())


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The logits (N, C) float32 and labels (N,) int64 of a split, in its order.

    Raises:
        OSError: there is no such file.
        ValueError: it is not whole, or not one that `write_predictions` wrote.
    """
    try:
        with path.open("rb") as file, np.load(file) as content:
            return content["logits"], content["labels"]
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} does not hold the logits and labels of a split: validate or test its run again"
        ) from error
