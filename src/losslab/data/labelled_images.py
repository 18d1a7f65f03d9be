"""Images with their labels, checked and hashed."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from losslab.errors import UserError


class LabelledImages(NamedTuple):
    """A set of images: `images` (N, *image_shape) uint8, `labels` (N,) int64."""

    images: Tensor
    labels: Tensor

    def take(self, index: Tensor | slice) -> "LabelledImages":
        """Return the images at `index`: int64 positions, a mask or a slice."""
        return LabelledImages(self.images[index], self.labels[index])

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
