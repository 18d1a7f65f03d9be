"""Batches cut from tensors on the device: no per-image Python, no DataLoader workers."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from losslab.data.labelled_images import LabelledImages


class EpochOrder:
    """A new order of the images for every epoch, which depends on (seed, epoch) only.

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
        # The 1 separates this stream from those of label_noise, long_tail and class_ranks, [seed, 1..5].
        order = np.random.default_rng([self.seed, self._drawn_epoch, 1]).permutation(self.size)
        return torch.from_numpy(order[: len(self) * self.world_size][self.rank :: self.world_size].copy())

    def batch_seed(self, batch: int) -> int:
        """Return a 63-bit seed for the augmentation of batch number `batch` of this epoch on this rank."""
        sequence = np.random.SeedSequence([self.seed, self._drawn_epoch, self.rank, batch + 1])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class EvaluationBatches:
    """A split in its own order, cut into (images (B, *image_shape) float32, labels (B,) int64) on its device.

    Args:
        split: the images, already on the device.
        batch_size: B >= 1; the last batch may be smaller.
        scale: converts uint8 pixels to the network's floats.
    """

    def __init__(self, split: LabelledImages, batch_size: int, scale: Callable[[Tensor], Tensor]) -> None:
        self.split, self.batch_size, self.scale = split, batch_size, scale

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.split
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.scale(images[part]), labels[part]


class TrainingBatches:
    """A split in a new order each epoch, cut into batches like EvaluationBatches; resumable within an epoch.

    A last batch of one image is skipped: batch norm cannot be trained on a single image.

    Args:
        split, batch_size, scale: see EvaluationBatches.
        order: the order of the images. Lightning finds it as `sampler` and sets its epoch.
        augment: called as augment(images, seed) on each float batch, or None.
    """

    def __init__(
        self,
        split: LabelledImages,
        batch_size: int,
        scale: Callable[[Tensor], Tensor],
        order: EpochOrder,
        augment: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self.split, self.batch_size, self.scale = split, batch_size, scale
        self.sampler, self.augment = order, augment
        self._state = {"epoch": order.epoch, "batches_done": 0}
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 1 or not full)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.split
        resume, self._resume = self._resume, {}
        # A state from the end of an epoch, or from another epoch, does not apply to this one.
        first = resume["batches_done"] % len(self) if resume.get("epoch") == self.sampler.epoch else 0
        order = self.sampler.indices().to(images.device)
        for number in range(first, len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            batch = self.scale(images[chosen])
            if self.augment is not None:
                batch = self.augment(batch, self.sampler.batch_seed(number))
            self._state = {"epoch": self.sampler.epoch, "batches_done": number + 1}
            yield batch, labels[chosen]

    def state_dict(self) -> dict[str, int]:
        """Return the current epoch and the number of batches taken from it."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after the batch at which `state_dict` was called."""
        self._state, self._resume = dict(state), dict(state)
