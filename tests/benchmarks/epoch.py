"""How long an epoch takes: losslab's way, the conventional one, and a bare loop over tensors, which is the floor."""

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import DEVICE, QUIET, Cell, Table, now, ratios, take_turns
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from losslab.data import MNISTDataModule
from losslab.losses import FocalLoss
from losslab.models import CNN, MLP, Classifier

REPEATS = 3
BATCH = 128


class EpochSeconds(Callback):
    """Seconds of each epoch, from its first batch to the end of its validation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(now() - self._start)


def mlp() -> Classifier:
    """784-64-128-64-10 with batch norm."""
    torch.manual_seed(0)
    return MLP((64, 128, 64), batch_norm=True, loss=FocalLoss(2.0), evaluate_train="never")


def cnn() -> Classifier:
    """The CNN as it is, channels last."""
    torch.manual_seed(0)
    return CNN(loss=FocalLoss(2.0), evaluate_train="never")


def through_trainer(build: Callable[[], LightningModule], data: dict[str, Any], **trainer: Any) -> float:
    """Seconds of the second of two epochs."""
    clock = EpochSeconds()
    Trainer(max_epochs=2, callbacks=[clock], **QUIET, **trainer).fit(build(), **data)
    return clock.seconds[1]


def bare_loop(build: Callable[[], Classifier], data: MNISTDataModule, layout: torch.memory_format | None) -> float:
    """Seconds of the second epoch of a loop over tensors, and of the accuracy on the validation images."""
    model = build().to(DEVICE)
    if layout is not None:
        model = model.to(memory_format=layout)
    network, loss = model.network, model.loss
    train, val = (tuple(part.to(DEVICE) for part in data.split(name)) for name in ("train", "val"))
    optimizer = torch.optim.Adam(network.parameters(), 0.01, fused=True)
    for _ in range(2):
        start = now()
        network.train()
        order = torch.randperm(len(train[0])).to(DEVICE)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            value = loss(network(scaled(train[0][chosen])), train[1][chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            correct = sum(
                (network(scaled(val[0][i : i + 500])).argmax(dim=1) == val[1][i : i + 500]).sum()
                for i in range(0, len(val[0]), 500)
            )
        assert correct > 0
        seconds = now() - start
    return seconds


def scaled(images: Tensor) -> Tensor:
    """Bytes to floats of mean 0 and deviation 1."""
    return images.float().sub_(255 * 0.1307).div_(255 * 0.3081)


def conventional(root: Path, workers: int) -> dict[str, Any]:
    """torchvision's data set, an image at a time through ToTensor and Normalize, and a DataLoader."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = MNIST(str(root), train=True, transform=transform)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return {
        "train_dataloaders": DataLoader(Subset(images, range(55_000)), BATCH, shuffle=True, **options),
        "val_dataloaders": DataLoader(Subset(images, range(55_000, 60_000)), 500, **options),
    }


class PlainModule(LightningModule):
    """The MLP in a module that logs its loss in each step, as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        model = mlp()
        self.network, self.loss = model.network, model.loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        value = self.loss(self.network(batch[0]), batch[1])
        self.log("train/loss", value)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), 0.01, fused=True)


class QuietModule(PlainModule):
    """The same without that line: what the Trainer itself takes."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.network(batch[0]), batch[1])


def epochs() -> Table:
    """Seconds an epoch."""
    root = Path(os.environ.get("MNIST_DIR") or "data").resolve()
    data = MNISTDataModule(root=root, batch_size=BATCH, source="full")
    data.setup("fit")
    networks: list[tuple[str, Callable[[], Classifier], dict[str, Any]]] = [
        ("MLP", mlp, {}),
        ("CNN", cnn, {}),
        ("CNN, bf16", cnn, {"precision": "bf16-mixed"}),
    ]
    rows: list[list[Cell]] = []
    for name, build, trainer in networks:
        bf16 = bool(trainer)
        seconds = take_turns(
            {
                "losslab": partial(through_trainer, build, {"datamodule": data}, **trainer),
                "bare": partial(bare_loop, build, data, None),
                "channels first": partial(bare_loop, build, data, torch.contiguous_format),
                **(
                    {}
                    if bf16
                    else {
                        workers: lambda build=build, workers=workers: through_trainer(
                            build, conventional(root, workers)
                        )
                        for workers in (0, 2)
                    }
                ),
            },
            REPEATS,
        )
        ours, bare, first = seconds["losslab"], seconds["bare"], seconds["channels first"]
        other = "" if bf16 else min(seconds[0], seconds[2], key=statistics.median)
        is_cnn = build is cnn
        rows.append(
            [
                name, ours, bare, other, ratios(other, ours) if other else "", ratios(ours, bare),
                ratios(first, ours) if is_cnn else "",
            ]
        )  # fmt: skip
    return Table(
        "An epoch",
        f"Seconds of the second epoch, {len(data.split('train').labels):,} training images and validation on "
        f"{len(data.split('val').labels):,}, batch {BATCH}, Adam, focal loss. losslab: through the Trainer, with "
        "precision and recall of each class. Bare: a loop over tensors in float32, channels last, validated by its "
        "accuracy. Conventional: torchvision's data set, ToTensor and Normalize, the better of 0 and 2 DataLoader "
        f"workers, the same module and Trainer. Median [lowest, highest] of {REPEATS} interleaved repeats.",
        ["network", "losslab", "bare loop", "conventional", "conventional / losslab", "losslab / bare",
         "bare channels-first / losslab"],
        rows,
    )  # fmt: skip


def steps() -> Table:
    """What the Trainer adds to a step."""
    root = Path(os.environ.get("MNIST_DIR") or "data").resolve()
    data = MNISTDataModule(root=root, batch_size=BATCH, source="full")
    data.setup("fit")
    count = len(data.train_dataloader())
    no_validation = {"limit_val_batches": 0}
    seconds = take_turns(
        {
            "bare": partial(bare_loop, mlp, data, None),
            "losslab": partial(through_trainer, mlp, {"datamodule": data}, **no_validation),
            "log": partial(through_trainer, PlainModule, {"datamodule": data}, **no_validation),
            "nothing": partial(through_trainer, QuietModule, {"datamodule": data}, **no_validation),
        },
        5,
    )
    added = {
        name: [1e3 * (own - bare) / count for own, bare in zip(values, seconds["bare"], strict=True)]
        for name, values in seconds.items()
    }
    rows: list[list[Cell]] = [
        [label, added[name], ratios(added[name], added["log"])]
        for name, label in (
            ("losslab", "losslab: loss and accuracy of every step, in one piece at the epoch's end; one cycle a step"),
            ("log", "`self.log` of the loss in each step"),
            ("nothing", "neither: the Trainer alone"),
        )
    ]
    return Table(
        "The Trainer's overhead",
        f"Milliseconds a step above the bare loop, the MLP at batch {BATCH}, {count} steps. Median [lowest, highest] "
        "of 5 interleaved repeats.",
        ["training step", "ms above the bare loop", "of `self.log`'s"],
        rows,
    )
