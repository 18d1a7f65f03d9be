"""How long an epoch takes: losslab's way against the conventional one, the same network and Trainer.

`make bench` (MNIST must be on disk). Both sides take turns in one process, so that a noisy machine is noisy for both.
The table goes to the terminal and to tests/benchmarks/RESULTS.md.
"""

import logging
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from losslab.data import MNISTDataModule
from losslab.losses import FocalLoss
from losslab.models import CNN, MLP, Classifier

REPEATS = 3
RESULTS = Path(__file__).with_name("RESULTS.md")


class EpochSeconds(Callback):
    """Seconds of each epoch, from its first batch to the end of its validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def model(name: str) -> Classifier:
    """The benchmark's networks: the 784-64-128-64-10 batch-norm MLP, and the CNN as it is."""
    return MLP((64, 128, 64), batch_norm=True, loss=FocalLoss(2.0)) if name == "MLP" else CNN(loss=FocalLoss(2.0))


def epoch_seconds(network: str, **data: object) -> float:
    """The second of two epochs through the Trainer, per-class metrics on."""
    torch.manual_seed(0)
    clock = EpochSeconds()
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(model(network), **data)
    return clock.seconds[1]


def conventional(root: Path, workers: int) -> dict[str, DataLoader]:
    """torchvision's data set, an image at a time through ToTensor and Normalize, and a DataLoader."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = MNIST(str(root), train=True, transform=transform)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return {
        "train_dataloaders": DataLoader(Subset(images, range(55_000)), 128, shuffle=True, **options),
        "val_dataloaders": DataLoader(Subset(images, range(55_000, 60_000)), 500, **options),
    }


def main() -> None:
    """Measure and write the table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    root = Path(os.environ.get("MNIST_DIR") or "data").resolve()
    lines = [
        "# Seconds an epoch: 55,000 training and 5,000 validation images, batch 128, through the Trainer",
        "",
        f"Median [lowest, highest] of {REPEATS} interleaved repeats. {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}.",
        "Conventional: torchvision's data set, ToTensor and Normalize, DataLoader with the better of 0 and 2 workers.",
        "",
        "| network | losslab | conventional | ratio |",
        "|---|---|---|---|",
    ]
    for network in ("MLP", "CNN"):
        ours: list[float] = []
        theirs: dict[int, list[float]] = {0: [], 2: []}
        for _ in range(REPEATS):
            ours.append(epoch_seconds(network, datamodule=MNISTDataModule(root=root, batch_size=128)))
            for workers, seconds in theirs.items():
                seconds.append(epoch_seconds(network, **conventional(root, workers)))
        best = min(theirs.values(), key=statistics.median)
        ratios = [theirs_s / ours_s for theirs_s, ours_s in zip(best, ours, strict=True)]
        lines.append(f"| {network} | {_spread(ours)} | {_spread(best)} | {_spread(ratios)} |")
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


def _spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.2f} [{min(numbers):.2f}, {max(numbers):.2f}]"


if __name__ == "__main__":
    main()
