"""Images with their labels, checked and hashed; and splits, which are positions in them."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from losslab.errors import UserError

_COPIES: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Copies of images on other devices, by the images, for as long as those are alive: {images: {device: copy}}."""


class LabelledImages(NamedTuple):
    """A set of images: `images` (N, *image_shape) uint8, `labels` (N,) int64."""

    images: Tensor
    labels: Tensor

    def take(self, index: Tensor | slice) -> "LabelledImages":
        """Return the images at `index`: int64 positions, a mask or a slice."""
        if isinstance(index, slice):
            return LabelledImages(self.images[index], self.labels[index])
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        # On uint8, images[index] takes 10 to 16 times as long.
        return LabelledImages(self.images.index_select(0, index), self.labels.index_select(0, index))

    def whole(self) -> "Split":
        """Return all of the images as a split, in their order."""
        return Split(self.images, torch.arange(len(self.labels), device=self.images.device), self.labels)

    def to(self, device: torch.device | str) -> "LabelledImages":
        """Return the same images on `device`."""
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, pixels and labels, 64 hex digits."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for part in (self.images, self.labels):
            digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def check(self, split: str, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise UserError, which names the split, unless shapes, dtypes and label values are valid."""
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.shape[1:] != image_shape:
            raise UserError(
                f"{split} images must be uint8 of shape (N, {', '.join(map(str, image_shape))}), "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{split} labels must be int64 of shape ({len(images)},), one for each image, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}."
            )
        if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
            low, high = (int(label) for label in labels.aminmax())
            raise UserError(f"{split} labels must be in 0..{num_classes - 1}, got {low}..{high}.")


class Split(NamedTuple):
    """Some images of a set, each with its label: splits of any number of seeds share one tensor of images.

    `images` (M, *image_shape) uint8 is the whole set, `positions` (N,) int64 are the split's in it, and `labels` (N,)
    int64 their labels as used.
    """

    images: Tensor
    positions: Tensor
    labels: Tensor

    def take(self, index: slice) -> "Split":
        """Return a part of the split."""
        return Split(self.images, self.positions[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        """Return the same split on `device`; those of the same images share one copy there."""
        images = _COPIES.get(self.images, {}).get(device)
        if images is None:
            images = self.images.to(device)
            if images is not self.images:
                _COPIES.setdefault(self.images, {})[device] = images
        return Split(images, self.positions.to(device), self.labels.to(device))

    def gathered(self) -> LabelledImages:
        """Return a copy of the split's own images, with its labels."""
        return LabelledImages(self.images.index_select(0, self.positions), self.labels)


class KeptImages(LabelledImages):
    """Images that a process keeps for all its data modules, and hashes once."""

    _known: str | None = None

    @property
    def is_changed(self) -> bool:
        """Whether one of the tensors was written to since it was made."""
        return self.images._version > 0 or self.labels._version > 0

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, pixels and labels, 64 hex digits."""
        if self._known is None or self.is_changed:
            self._known = super().fingerprint()
        return self._known
