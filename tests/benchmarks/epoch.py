"""How long an epoch takes: losslab's way, the conventional ones, and a bare loop over tensors, which is the floor."""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import BATCH, DEVICE, QUIET, ROOT, SMALL, Cell, Table, mnist, now, ratios, take_turns
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset
from torchmetrics import Accuracy, MeanMetric, MetricCollection, Precision, Recall
from torchvision import transforms
from torchvision.datasets import MNIST

from losslab.data import LabelledImages, MNISTDataModule
from losslab.losses import FocalLoss
from losslab.models import CNN, MLP, Classifier

REPEATS = 1 if SMALL else 3
TEMPLATE = os.environ.get("HYDRA_TEMPLATE")
"""A folder that holds github.com/ashleve/lightning-hydra-template, which the user has fetched; None leaves it out."""

Data = dict[str, Any]
"""Arguments of Trainer.fit: loaders, or a data module."""


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


def through_trainer(build: Callable[[], LightningModule], data: Callable[[], Data], **trainer: Any) -> float:
    """Seconds of the second of two epochs."""
    clock = EpochSeconds()
    Trainer(**{"max_epochs": 2, "callbacks": [clock], **QUIET, **trainer}).fit(build(), **data())
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
        for chosen in order.split(BATCH):
            value = loss(network(scaled(train[0].index_select(0, chosen))), train[1].index_select(0, chosen))
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


def loaders(train: Dataset[Any], val: Dataset[Any], workers: int) -> Data:
    """DataLoaders as one writes them: shuffled, pinned for a GPU, workers kept from one epoch to the next."""
    common = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": DEVICE.type == "cuda"}
    return {
        "train_dataloaders": DataLoader(train, BATCH, shuffle=True, **common),
        "val_dataloaders": DataLoader(val, 500, **common),
    }


def conventional(data: MNISTDataModule) -> dict[str, Callable[[], Data]]:
    """The usual ways to load the same images, by name."""
    splits = [data.split(name) for name in ("train", "val")]
    pictures = [_of_torchvision(split) for split in splits]
    tensors = [TensorDataset(scaled(split.images), split.labels) for split in splits]

    def by_batch() -> Data:
        """One index a batch: the quickest that a DataLoader can do with tensors."""
        order = BatchSampler(RandomSampler(tensors[0]), BATCH, drop_last=False)
        pinned = DEVICE.type == "cuda"
        first = DataLoader(tensors[0], batch_size=None, sampler=order, pin_memory=pinned)
        return loaders(*tensors, 0) | {"train_dataloaders": first}

    ways = {
        f"torchvision's MNIST, {workers} DataLoader workers": partial(loaders, *pictures, workers)
        for workers in dict.fromkeys((0, 2, os.cpu_count() or 1))
    }
    return ways | {
        "a TensorDataset in memory": partial(loaders, *tensors, 0),
        "a TensorDataset, read by the batch": by_batch,
    }


def _of_torchvision(split: LabelledImages) -> MNIST:
    """torchvision's data set with a split's images: an image at a time, through ToTensor and Normalize."""
    images = MNIST.__new__(MNIST)  # its __init__ would read all of MNIST, not this split
    images.data, images.targets = split.images[:, 0], split.labels
    images.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images.target_transform = None
    return images


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


class TorchmetricsModule(PlainModule):
    """The same with torchmetrics: loss and accuracy of each epoch, precision and recall of each class in validation."""

    def __init__(self) -> None:
        super().__init__()
        ten: dict[str, Any] = {"task": "multiclass", "num_classes": 10}
        self.train_acc, self.val_acc = Accuracy(**ten), Accuracy(**ten)
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        each: dict[str, Any] = ten | {"average": "none"}
        self.of_classes = MetricCollection({"precision": Precision(**each), "recall": Recall(**each)})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits = self.network(batch[0])
        value = self.loss(logits, batch[1])
        self.train_loss(value)
        self.train_acc(logits.argmax(dim=1), batch[1])
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return value

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self.network(batch[0])
        self.val_loss(self.loss(logits, batch[1]))
        self.val_acc(logits.argmax(dim=1), batch[1])
        self.of_classes.update(logits, batch[1])
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        for name, values in self.of_classes.compute().items():
            self.log_dict({f"val/{name}/{digit}": value for digit, value in enumerate(values)})
        self.of_classes.reset()


def template() -> tuple[Callable[[], LightningModule], Callable[[], Data]]:
    """lightning-hydra-template's MNIST module with its own network, and its data module, as its configuration has them.

    Its data module has 0 workers there, and adds the test images to the training images before it splits them.
    """
    assert TEMPLATE is not None
    sys.path.insert(0, TEMPLATE)
    from src.data.mnist_datamodule import MNISTDataModule as TemplateData
    from src.models.components.simple_dense_net import SimpleDenseNet
    from src.models.mnist_module import MNISTLitModule

    def module() -> LightningModule:
        torch.manual_seed(0)
        return MNISTLitModule(
            net=SimpleDenseNet(784, 64, 128, 64, 10), optimizer=partial(torch.optim.Adam, lr=0.001),
            scheduler=partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="min", factor=0.1, patience=10),
            compile=False,
        )  # fmt: skip

    return module, lambda: {"datamodule": TemplateData(data_dir=str(ROOT), batch_size=BATCH)}


def epochs() -> Table:
    """Seconds an epoch."""
    data = mnist()
    rows: list[list[Cell]] = []
    networks: list[tuple[str, Callable[[], Classifier], dict[str, Any]]] = [
        ("MLP", mlp, {}),
        ("CNN", cnn, {}),
        ("CNN in bf16", cnn, {"precision": "bf16-mixed"}),
    ]
    for name, build, trainer in networks:
        contenders = {
            "losslab": partial(through_trainer, build, lambda: {"datamodule": data}, **trainer),
        }
        if not trainer:
            contenders["bare loop"] = partial(bare_loop, build, data, None)
        if name == "CNN":
            contenders["bare loop, channels first"] = partial(bare_loop, build, data, torch.contiguous_format)
        ways = {} if trainer else conventional(data)
        loaded = {way: partial(through_trainer, build, given) for way, given in ways.items()}
        others = {}
        if name == "MLP" and TEMPLATE:
            module, its_data = template()
            others["lightning-hydra-template's own"] = partial(through_trainer, module, its_data)
        once = take_turns({"losslab": contenders["losslab"]} | loaded | others, 1) if loaded else {}
        best = min(loaded, key=lambda way: once[way][0], default="")
        if best:
            contenders[f"**{best}**"] = loaded[best]
        if name == "MLP":
            contenders["Lightning with torchmetrics, loaded as in bold"] = partial(
                through_trainer, TorchmetricsModule, ways[best]
            )
        seconds = take_turns(contenders, REPEATS if build is mlp else max(1, REPEATS - 1))
        rows += [[f"{name}: {way}", taken, ratios(taken, seconds["losslab"])] for way, taken in seconds.items()]
        rows += [
            [f"{name}: {way}", taken, ratios(taken, once["losslab"])]
            for way, taken in once.items()
            if way not in ("losslab", best)
        ]
    counts = " and ".join(f"{len(data.split(part).labels):,}" for part in ("train", "val"))
    absent = "" if TEMPLATE else " lightning-hydra-template was not there (HYDRA_TEMPLATE, a folder that holds it)."
    return Table(
        "An epoch",
        f"Seconds of the second of two epochs on all sides, {counts} training and validation images, batch {BATCH}, "
        "Adam, focal loss. losslab: through the Trainer, with precision and recall of each class. Bare: a loop over "
        "tensors in float32, channels last unless said otherwise, validated by its accuracy. The conventional ways "
        "differ in the loader: losslab's module, the same images and the same Trainer, workers that stay from epoch to "
        "epoch, pinned memory where a GPU is. The quickest of them in a first round, in bold, takes as many "
        "turns as losslab; it also feeds a plain LightningModule with torchmetrics and `self.log`, as tutorials write "
        f"it. Median [lowest, highest] of {REPEATS} interleaved repeats (CNN: {REPEATS - 1}), without brackets one."
        f"{absent}",
        ["network and way", "seconds", "of losslab's"],
        rows,
    )


def steps() -> Table:
    """What the Trainer adds to a step."""
    data = mnist()
    count = 3 if SMALL else len(data.train_dataloader())
    no_validation = {"limit_val_batches": 0}
    modules = {"losslab": mlp, "log": PlainModule, "nothing": QuietModule}
    seconds = take_turns(
        {"bare": partial(bare_loop, mlp, data, None)}
        | {
            name: partial(through_trainer, build, lambda: {"datamodule": data}, **no_validation)
            for name, build in modules.items()
        },
        REPEATS + 2,
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
        f"of {REPEATS + 2} interleaved repeats.",
        ["training step", "ms above the bare loop", "of `self.log`'s"],
        rows,
    )
