"""Small files in MNIST's format, for the tests that search, read and download them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from losslab.data import mnist as mnist_files

WriteMNIST = Callable[..., Path]


@pytest.fixture
def write_mnist(monkeypatch: pytest.MonkeyPatch) -> WriteMNIST:
    """write_mnist(raw, seed=0) puts 40 + 20 random images into `raw` and makes their checksums the right ones."""

    def write(raw: Path, seed: int = 0) -> Path:
        raw.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", 40), ("t10k", 20)):
            pixels = np.random.default_rng([seed, count]).integers(0, 256, (count, 28, 28), dtype=np.uint8)
            sizes = np.array([count, 28, 28], dtype=">i4")
            (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + sizes.tobytes() + pixels.tobytes())
            labels = np.arange(count, dtype=np.uint8) % 10
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + sizes[:1].tobytes() + labels.tobytes())
        for name in mnist_files.MD5:
            monkeypatch.setitem(mnist_files.MD5, name, hashlib.md5((raw / name).read_bytes()).hexdigest())
        return raw

    return write
