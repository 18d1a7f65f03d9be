"""How long 99 % takes: experiments/fast.yaml through the Trainer, and a public recipe in a bare loop."""

import logging
import os
import statistics
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from epoch import scaled
from lightning.pytorch import seed_everything
from measure import DEVICE, Table, now, ratios, take_turns
from torch import Tensor, nn

from losslab.data import MNISTDataModule
from losslab.run import CommandLine

SEEDS = range(30, 35)
"""Not those by which the recipe was found."""
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "fast.yaml"


class PublicRecipe:
    """github.com/tuomaso/train_mnist_fast: one epoch, 99.04 % on the test images by its own account."""

    def __init__(self, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> None:
        self.train, self.val = train, val
        self.accuracies: list[float] = []

    def fit(self, seed: int) -> float:
        """Seconds of the training; the accuracy on the validation images is measured outside."""
        seed_everything(seed, verbose=False)
        network = nn.Sequential(
            *[nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()],
            *[nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)],
        ).to(DEVICE)
        start = now()
        images, labels = self.train
        optimizer = torch.optim.Adam(network.parameters(), 0.01, betas=(0.7, 0.9), fused=True)
        steps = -(-len(images) // 256)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
        order = torch.randperm(len(images)).to(DEVICE)
        for step in range(steps):
            chosen = order[256 * step : 256 * (step + 1)]
            loss = F.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = now() - start
        with torch.no_grad():
            hits = [network(part).argmax(dim=1) for part in self.val[0].split(500)]
        self.accuracies.append(float((torch.cat(hits) == self.val[1]).double().mean()))
        return seconds


class FastExperiment:
    """The experiment, through losslab's command line and Lightning's Trainer."""

    def __init__(self, root: Path) -> None:
        self.command_line = CommandLine(
            ["--config", str(EXPERIMENT), "--data.root", str(root), "--data.source", "full"], "bench"
        )
        self.accuracies: list[float] = []

    def fit(self, seed: int) -> float:
        """Seconds of Trainer.fit, with its validation."""
        self.command_line.parse_config({**self.command_line.resolved(), "seed_everything": seed})
        trainer, model, data = self.command_line.build(
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False
        )
        data.setup("fit")
        start = now()
        trainer.fit(model, datamodule=data)
        seconds = now() - start
        self.accuracies.append(float(trainer.callback_metrics["val/acc"]))
        return seconds


def time_to_99() -> Table:
    """Seconds to 99 %."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    root = Path(os.environ.get("MNIST_DIR") or "data").resolve()
    data = MNISTDataModule(root=root, source="full")
    data.setup("fit")
    train, val = (data.split(name).to(DEVICE) for name in ("train", "val"))
    public = PublicRecipe((scaled(train.images), train.labels), (scaled(val.images), val.labels))
    fast = FastExperiment(root)
    fast.fit(0), fast.accuracies.clear()  # the first fit of a process also loads libraries
    seconds: dict[str, list[float]] = {"fast": [], "public": []}
    for seed in SEEDS:
        once = take_turns({"fast": partial(fast.fit, seed), "public": partial(public.fit, seed)}, 1)
        for name, values in once.items():
            seconds[name] += values
    expected = EXPERIMENT.read_text().split("# Expected: ")[1].split(":")[0]
    return Table(
        "99 %",
        f"Seconds of one fit of experiments/fast.yaml (`Trainer.fit`, validation included) and of the public recipe's "
        f"training loop, both on {len(train.labels):,} images held in memory; accuracy on the {len(val.labels):,} "
        f"validation images, mean ± sd over seeds {SEEDS.start}-{SEEDS.stop - 1}, which took part in no choice. Median "
        f"[lowest, highest] of {len(SEEDS)} interleaved repeats. The test images are not read here; the experiment's "
        f"own account: {expected}.",
        ["recipe", "seconds", "of the public recipe's", "validation accuracy"],
        [
            [
                "experiments/fast.yaml",
                seconds["fast"],
                ratios(seconds["fast"], seconds["public"]),
                _mean(fast.accuracies),
            ],
            ["public, bare loop", seconds["public"], "", _mean(public.accuracies)],
        ],
    )


def _mean(accuracies: list[float]) -> str:
    return f"{100 * statistics.mean(accuracies):.2f} ± {100 * statistics.stdev(accuracies):.2f} %"
