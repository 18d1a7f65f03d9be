"""Small random affine transforms, one drawn per image, applied to a batch on its device."""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, shift and scale, within limits that keep a digit's class. No flips.

    Args:
        rotation: largest angle in degrees, in either direction; in [0, 45].
        shift: largest shift along each axis, in pixels; >= 0.
        scale: largest relative change of size, up or down; in [0, 0.5].
        background: raw value of pixels from outside the image; in [0, 255].
    """

    rotation: float = 10.0
    shift: float = 2.0
    scale: float = 0.1
    background: int = 0

    def __post_init__(self) -> None:
        for name, high in (("rotation", 45.0), ("shift", math.inf), ("scale", 0.5), ("background", 255.0)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise UserError(f"augmentation.{name} must be in [0, {high:g}], got {value}.")

    def transforms(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Return one affine transform per image, from output to input positions as affine_grid counts them: (N, 2, 3).

        Args:
            draws: (4, N) in [-1, 1): angle, size, shift across and down, as shares of their limits.
            height: the images' height, in pixels.
            width: their width.
        """
        angle, size = draws[0] * math.radians(self.rotation), 1 + draws[1] * self.scale
        across, down = draws[2] * self.shift * 2 / width, draws[3] * self.shift * 2 / height
        # affine_grid maps output pixels to input pixels, so a larger size is a smaller step.
        cos, sin = angle.cos() / size, angle.sin() / size
        # Its axes go from -1 to 1: without the ratio a rotation would shear where height and width differ.
        ratio = height / width
        return torch.stack([cos, -sin * ratio, across, sin / ratio, cos, down], dim=1).view(-1, 2, 3)

    def __call__(self, images: Tensor, transforms: Tensor, outside: Tensor | float = 0.0) -> Tensor:
        """Return transformed images, by bilinear interpolation, in the shape of `images`.

        Args:
            images: (N, channels, height, width) float, in any units.
            transforms: (N, 2, 3), from `transforms`.
            outside: value of pixels from outside the image, in the units of `images`.
        """
        # affine_grid's positions, of which its product of a matrix per image takes most of the time of a batch.
        along_x, along_y, shift = transforms[:, None, None].unbind(-1)  # (N, 1, 1, 2) each
        across, down = (_centres(size, images.device) for size in (images.shape[3], images.shape[2]))
        grid = torch.addcmul(shift, along_y, down[:, None, None]) + along_x * across[:, None]  # (N, height, width, 2)
        return F.grid_sample(images - outside, grid, align_corners=False) + outside


@functools.cache
def _centres(size: int, device: torch.device) -> Tensor:
    """Return the middles of `size` pixels along an axis that goes from -1 to 1, (size,)."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1
