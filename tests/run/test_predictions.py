"""What was written is read; what was not is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from losslab.run.predictions import read_predictions, write_predictions


def test_logits_and_labels_come_back_as_float32_and_int64() -> None:
    logits, labels = torch.randn(7, 3, dtype=torch.bfloat16), torch.arange(7) % 3
    write_predictions(Path("predictions.npz"), (logits, labels))
    again, labels_again = read_predictions(Path("predictions.npz"))
    assert (again.dtype, labels_again.dtype) == (np.float32, np.int64)
    assert np.array_equal(again, logits.float().numpy())
    assert np.array_equal(labels_again, labels.numpy())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_not_whole_is_named(share: float) -> None:
    path = Path("predictions.npz")
    write_predictions(path, (torch.randn(7, 3), torch.arange(7) % 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"predictions\.npz does not hold the logits and labels of a split"):
        read_predictions(path)


def test_a_file_of_something_else_is_named() -> None:
    np.savez("predictions.npz", logits=np.zeros((7, 3)))
    with pytest.raises(ValueError, match="does not hold the logits and labels"):
        read_predictions(Path("predictions.npz"))
    with pytest.raises(FileNotFoundError):
        read_predictions(Path("nothing.npz"))
