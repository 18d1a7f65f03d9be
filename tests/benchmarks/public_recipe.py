"""A public recipe for 99 % of MNIST on CPUs, in a bare loop: github.com/tuomaso/train_mnist_fast.

As it was published it takes one epoch. `python public_recipe.py EPOCHS SEED...` prints what it reaches; the images are
read by torchvision, from the folder MNIST_DIR.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Images = tuple[Tensor, Tensor]
"""Scaled images (N, 1, 28, 28) and labels (N,)."""


def network() -> nn.Module:
    """Its network."""
    return nn.Sequential(
        *[nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(800, 256), nn.ReLU(), nn.Linear(256, 10)],
    )


def train(train: Images, val: Images, seed: int, epochs: int) -> list[tuple[float, float]]:
    """Seconds since the start, and accuracy on the validation images, at the end of each epoch.

    Its one cycle is stretched over the epochs; with one epoch this is the recipe as published.
    """
    torch.manual_seed(seed)
    images, labels = train
    model = network().to(images.device)
    start = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), 0.01, betas=(0.7, 0.9), fused=True)
    steps = -(-len(images) // 256)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps * epochs)
    reached = []
    for _ in range(epochs):
        order = torch.randperm(len(images)).to(images.device)
        for chosen in order.split(256):
            loss = F.cross_entropy(model(images.index_select(0, chosen)), labels.index_select(0, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            hits = torch.cat([model(part).argmax(dim=1) for part in val[0].split(500)]) == val[1]
            accuracy = float(hits.double().mean())  # waits for a GPU
        reached.append((time.perf_counter() - start, accuracy))
    return reached


def _read(folder: str) -> Sequence[Images]:
    """55,000 images to train on and 5,000 to validate on, drawn at random."""
    from torchvision.datasets import MNIST

    read = MNIST(folder, train=True)
    images = read.data.unsqueeze(1).float().sub_(255 * 0.1307).div_(255 * 0.3081)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return [(images[part], read.targets[part]) for part in (order[:55_000], order[55_000:])]


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = [(images.to(device), labels.to(device)) for images, labels in _read(os.environ.get("MNIST_DIR") or "data")]
    for number in sys.argv[2:]:
        print(json.dumps(train(*splits, int(number), int(sys.argv[1]))), flush=True)
