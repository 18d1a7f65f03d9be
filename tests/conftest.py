"""What every test stands on: no network, no real MNIST unless asked for, an empty folder to work in."""

import os
import sys
from pathlib import Path

# One thread, here and in every process started from here: the tests' networks are too small for more, and equal weights
# are asked for across processes. Read by torch when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from loss_examples import user_class

REAL_MNIST = os.environ.get("MNIST_DIR") or None
REPOSITORY = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loss",
        action="append",
        default=[],
        metavar="IMPORT_PATH",
        help="also hold tests/losses against this loss, my_package.MyLoss, found from the current folder (repeatable)",
    )


def pytest_configure(config: pytest.Config) -> None:
    paths = config.getoption("loss")
    if paths:
        sys.path.insert(0, str(config.invocation_params.dir))
    try:
        config.user_losses = [user_class(path) for path in paths]  # type: ignore[attr-defined]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder, without MNIST_DIR, and every attempt to download fails at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setattr("losslab.data.mnist.download_mnist", lambda root: "no network in tests")
    return tmp_path


@pytest.fixture
def real_mnist() -> Path:
    """The folder with the real MNIST, for tests that run where MNIST_DIR is set."""
    if REAL_MNIST is None:
        pytest.skip("needs MNIST_DIR")
    return Path(REAL_MNIST).resolve()


@pytest.fixture
def repository() -> Path:
    """The folder with experiments/ and sweeps/."""
    return REPOSITORY


@pytest.fixture
def tiny_mlp(own_folder: Path) -> list[str]:
    """The command line of an experiment that takes a second: a small network on 200 real digits."""
    (own_folder / "tiny.yaml").write_text(TINY_MLP)
    return ["--config", "tiny.yaml"]


TINY_MLP = """\
model:
  class_path: losslab.models.MLP
  init_args:
    hidden: [16]
    dropout: 0.2
    loss: {class_path: losslab.losses.FocalLoss, init_args: {gamma: 1.5}}
data:
  class_path: tiny_digits.TinyDigits
  init_args: {batch_size: 20}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
"""
