"""MNIST's four files: where they lie, whether they are the real ones, and how to get them."""

import functools
import hashlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from losslab.data.labelled_images import LabelledImages
from losslab.errors import UserError

PATIENCE_SECONDS = 10.0
"""A download that brings no byte for so long is given up."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the uncompressed files, in torchvision's layout under <root>/MNIST/raw/."""


def read_mnist(root: Path, part: str) -> LabelledImages:
    """Read and verify one part of MNIST.

    Args:
        root: the folder that holds MNIST/raw/.
        part: "train" (60,000 images) or "t10k" (the official test set, 10,000).

    Raises:
        UserError: a file cannot be read or is not MNIST's.
    """
    images = np.frombuffer(_verified(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_verified(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    # Copied, because torch wants memory that may be written to.
    return LabelledImages(
        torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(labels.astype(np.int64))
    )


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
    raise UserError(f"{path} is a foreign file: it does not begin as uncompressed MNIST does. {again}")


def mnist_is_in(root: Path) -> bool:
    """Whether all four files lie under `root`.

    Raises:
        UserError: some of them lie there and some are missing, or the folder cannot be looked into.
    """
    raw = root / "MNIST" / "raw"
    try:
        present = {entry.name for entry in os.scandir(raw)} if raw.exists() else set()
    except OSError as error:
        raise UserError(f"cannot read the folder {raw}: {error.strerror}. Give another data.root.") from None
    missing = sorted(set(MD5) - present)
    if missing and len(missing) < len(MD5):
        raise UserError(f"{raw} lacks {', '.join(missing)}. Add what is missing, or delete the folder.")
    return not missing


@functools.cache  # a sweep makes many data modules, and one attempt is enough
def download_mnist(root: Path) -> str | None:
    """Download MNIST into `root` through torchvision.

    Returns:
        None when the files are there, else the reason why they are not.

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
        except Exception as error:  # whatever goes wrong on the way, the answer is the same: no images
            # torchvision's last line is the cause, such as an unknown host; those before say what it tried.
            failure.append((str(error).strip().splitlines() or [type(error).__name__])[-1])

    # A name look-up cannot be interrupted, so the download runs in a thread that can be left behind.
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
