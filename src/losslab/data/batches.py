"""Batches cut from tensors on the device: no per-image Python, no DataLoader workers."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from losslab.data.augmentation import Augmentation
from losslab.data.labelled_images import Split


class EpochOrder:
    """A new order of the images, and numbers to augment them by, for every epoch; they depend on (seed, epoch) only.

    Lightning calls `set_epoch` before each epoch, as on any sampler. With several processes, rank r of W takes every
    W-th image of the common order, so that the ranks' batches together are those of one process with a W times larger
    batch (except an epoch's last one). Up to W - 1 images are left out of an epoch, so that all ranks take the same
    number of steps.

    Args:
        size: number of images, N >= 1.
        seed: a run's seed, >= 0.
        rank, world_size: this process's number, and the number of processes.
        fixed: every epoch has the order of the first one, as the Trainer's overfit_batches promises.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, world_size: int = 1, fixed: bool = False) -> None:
        self.size, self.seed, self.rank, self.world_size, self.fixed = size, seed, rank, world_size, fixed
        self.epoch = 0

    @property
    def _drawn_epoch(self) -> int:
        return 0 if self.fixed else self.epoch

    def __len__(self) -> int:
        return self.size // self.world_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return the epoch's order for this rank, (len(self),) int64 on CPU."""
        # The 1 separates this stream from `draws` and those of label_noise, long_tail and class_ranks, [seed, 1..5].
        order = np.random.default_rng([self.seed, self._drawn_epoch, 1]).permutation(self.size)
        return torch.from_numpy(order[: len(self) * self.world_size][self.rank :: self.world_size].copy())

    def draws(self) -> Tensor:
        """Return random numbers for each image of `indices`, uniform in [-1, 1): (4, len(self)) float32 on CPU."""
        generator = np.random.default_rng([self.seed, self._drawn_epoch, 2])
        draws = generator.random((4, self.size), np.float32)[:, : len(self) * self.world_size]
        return torch.from_numpy(draws[:, self.rank :: self.world_size] * 2 - 1)


class EvaluationBatches:
    """A split in its own order, cut into (images (B, *image_shape) float32, labels (B,) int64) on its device.

    Args:
        split: positions in images that are already on the device.
        batch_size: B >= 1; the last batch may be smaller.
        scale: converts uint8 pixels to the network's floats.
    """

    def __init__(self, split: Split, batch_size: int, scale: Callable[[Tensor], Tensor]) -> None:
        self.split, self.batch_size, self.scale = split, batch_size, scale

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        _, positions, labels = self.split
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.images_at(positions[part]), labels[part]

    def images_at(self, positions: Tensor) -> Tensor:
        """Return the float images at positions (B,) in all images."""
        return self.scale(self.split.images.index_select(0, positions))


class Epoch(NamedTuple):
    """The images of an epoch in its order: positions (N,), labels (N,), and transforms (N, 2, 3) or None."""

    positions: Tensor
    labels: Tensor
    transforms: Tensor | None


class TrainingBatches:
    """A split in a new order each epoch, cut into batches like EvaluationBatches; resumable within an epoch.

    A last batch of one image is skipped: batch norm cannot be trained on a single image.

    Args:
        split, batch_size, scale: see EvaluationBatches.
        order: the order of the images. Lightning finds it as `sampler` and sets its epoch.
        augmentation: random transforms of the float images, or None. Their numbers are drawn once an epoch, on the CPU,
            so that they depend neither on the device nor on where a resumed epoch goes on.
        outside: value of pixels from outside the image, in the units of the float images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        scale: Callable[[Tensor], Tensor],
        order: EpochOrder,
        augmentation: Augmentation | None = None,
        outside: float = 0.0,
    ) -> None:
        self.split, self.batch_size, self.scale = split, batch_size, scale
        self.sampler, self.augmentation, self.outside = order, augmentation, outside
        self._state = {"epoch": order.epoch, "batches_done": 0}
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 1 or not full)

    def epoch(self) -> Epoch:
        """Return what the current epoch shows, on the images' device."""
        images, positions, labels = self.split
        order = self.sampler.indices().to(images.device)
        transforms = None
        if self.augmentation is not None:
            height, width = images.shape[-2:]
            transforms = self.augmentation.transforms(self.sampler.draws().to(images.device), height, width)
        return Epoch(positions.index_select(0, order), labels.index_select(0, order), transforms)

    def images_at(self, positions: Tensor, transforms: Tensor | None) -> Tensor:
        """Return the float images at positions (B,) in all images, changed by transforms (B, 2, 3) if there are any."""
        images = self.scale(self.split.images.index_select(0, positions))
        if self.augmentation is None or transforms is None:
            return images
        return self.augmentation(images, transforms, self.outside)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        resume, self._resume = self._resume, {}
        # A state from the end of an epoch, or from another epoch, does not apply to this one.
        first = resume["batches_done"] % len(self) if resume.get("epoch") == self.sampler.epoch else 0
        positions, labels, transforms = self.epoch()
        for number in range(first, len(self)):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            batch = self.images_at(positions[part], None if transforms is None else transforms[part])
            self._state = {"epoch": self.sampler.epoch, "batches_done": number + 1}
            yield batch, labels[part]

    def state_dict(self) -> dict[str, int]:
        """Return the current epoch and the number of batches taken from it."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after the batch at which `state_dict` was called."""
        self._state, self._resume = dict(state), dict(state)
