"""The batches of a population: each member's own images, gathered, scaled and augmented in one go."""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from losslab.data import EvaluationBatches, ImageDataModule, TrainingBatches
from losslab.sweep.eligibility import TrainAloneError


class PopulationBatches:
    """The training batches of K members: images (K, B, *image_shape) float, and labels (K, B) int64.

    Each member's are those that its data module yields alone, bit for bit. Where all have the same data module, one
    batch is common to them: (B, *image_shape) and (B,).

    Args:
        batches: the distinct ones, D of them, on the same images.
        of_member: which of them each member has, (K,) in 0..D-1.
    """

    def __init__(self, batches: Sequence[TrainingBatches], of_member: Tensor) -> None:
        self._batches, self._of_member = batches, of_member
        self.sampler = self  # Lightning calls set_epoch of a loader's sampler

    def set_epoch(self, epoch: int) -> None:
        for batches in self._batches:
            batches.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, size = self._batches[0], self._batches[0].batch_size
        if len(self._batches) == 1:
            yield from first
            return
        epochs = [batches.epoch() for batches in self._batches]
        positions = _by_batch(torch.stack([epoch.positions for epoch in epochs]), size)
        labels = _by_batch(torch.stack([epoch.labels for epoch in epochs]).index_select(0, self._of_member), size)
        own = [epoch.transforms for epoch in epochs if epoch.transforms is not None]
        transforms = _by_batch(torch.stack(own), size) if own else None
        for number in range(len(self)):
            images = first.images_at(positions[number], None if transforms is None else transforms[number])
            of_images = labels[number].unflatten(0, (len(self._of_member), -1))
            yield _spread(images, self._of_member, len(epochs)), of_images


class PopulationEvaluation:
    """A split of each of K members in its own order, in batches like those of PopulationBatches, never augmented.

    Args:
        batches: the distinct ones, D of them, on the same images.
        of_member: which of them each member has, (K,) in 0..D-1.
    """

    def __init__(self, batches: Sequence[EvaluationBatches], of_member: Tensor) -> None:
        self._first, self._of_member, self._distinct = batches[0], of_member, len(batches)
        positions, labels = (torch.stack(parts) for parts in zip(*(each.split[1:] for each in batches), strict=True))
        self._positions = _by_batch(positions, self._first.batch_size)
        self._labels = _by_batch(labels.index_select(0, of_member), self._first.batch_size)

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions, labels in list(zip(self._positions, self._labels, strict=True))[: len(self)]:
            images = _spread(self._first.images_at(positions), self._of_member, self._distinct)
            yield images, labels.unflatten(0, (len(self._of_member), -1))


def _by_batch(rows: Tensor, size: int) -> list[Tensor]:
    """Cut rows (D, N, ...) into batches (D * B, ...), each contiguous, so that no step copies them.

    The last one is smaller, and empty if `size` divides N.
    """
    full = rows.shape[1] // size
    whole = rows[:, : full * size].unflatten(1, (full, size)).transpose(0, 1).flatten(1, 2)  # (S, D * size, ...)
    return [*whole, rows[:, full * size :].flatten(0, 1)]


def _spread(images: Tensor, of_member: Tensor, distinct: int) -> Tensor:
    """Return (K, B, *image_shape) of the images (D * B, *image_shape) of `distinct` batches."""
    images = images.unflatten(0, (distinct, -1))
    return images if len(of_member) == distinct else images.index_select(0, of_member)


class PopulationData(LightningDataModule):
    """The data of K members: all have the same images, and each its own splits, labels, order and augmentation.

    Args:
        datas: a data module for each member; those of members with the same data and seed may be one object.

    Raises:
        TrainAloneError: from `setup`: members have other images than others, or splits of another size.
    """

    def __init__(self, datas: Sequence[ImageDataModule]) -> None:
        super().__init__()
        self.datas = list(datas)
        self._distinct = list(dict.fromkeys(datas))

    @property
    def data(self) -> ImageDataModule:
        """The first member's."""
        return self.datas[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, the same for all."""
        return self.data.class_names

    def setup(self, stage: str) -> None:
        """Set up all data modules, and let them share the first one's images, which are moved to the device once."""
        for data in self._distinct:
            data.setup(stage)
        shared = {data: _in_common(data) for data in self._distinct}
        groups: dict[str, list[int]] = {}
        for k, data in enumerate(self.datas):
            groups.setdefault(repr(shared[data]), []).append(k)
        if len(groups) > 1:
            kind, of_first = type(self.data).__name__, shared[self.data]
            names = [name for name in of_first if any(own[name] != of_first[name] for own in shared.values())]
            reason = f"{', '.join(names)} of {kind} differ between members"
            if "images" in names:
                reason = f"{kind} loads other images for another seed"
            raise TrainAloneError(reason, [group for group in groups.values() if len(group) > 1])
        for data in self._distinct:
            data.share_images(self.data)
            data.trainer = self.trainer
            data.setup(stage)

    @property
    def _of_member(self) -> Tensor:
        places = {data: place for place, data in enumerate(self._distinct)}
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        return torch.tensor([places[data] for data in self.datas], device=device)

    def evaluation_dataloader(self, split: str) -> EvaluationBatches | PopulationEvaluation:
        """Return the batches of a split ("train" or "val"), common to all members if it is the same for all."""
        first, *others = batches = [data.evaluation_dataloader(split) for data in self._distinct]
        pairs = [pair for other in others for pair in zip(other.split[1:], first.split[1:], strict=True)]
        if all(torch.equal(own, same) for own, same in pairs):
            return first
        return PopulationEvaluation(batches, self._of_member)

    def train_dataloader(self) -> PopulationBatches:
        return PopulationBatches([data.train_dataloader() for data in self._distinct], self._of_member)

    def val_dataloader(self) -> EvaluationBatches | PopulationEvaluation:
        return self.evaluation_dataloader("val")


def _in_common(data: ImageDataModule) -> dict[str, object]:
    """Return what the data of members, once set up, must have in common."""
    sizes = {f"the size of {name}": len(data.evaluation_dataloader(name).split.labels) for name in ("train", "val")}
    settings = ("data_name", "class_names", "batch_size", "eval_batch_size", "augmentation", "pixel_mean", "pixel_std")
    pixels = torch.arange(math.prod(data.image_shape)).remainder(256).byte().reshape(1, *data.image_shape)
    scaled = hashlib.sha256(data.scale(pixels).contiguous().numpy().data).hexdigest()
    own = {name: getattr(data, name) for name in settings}
    return {"images": data.hashes["train"]} | sizes | own | {"the scale": scaled}
