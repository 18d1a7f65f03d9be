"""Small random affine transforms, one drawn per image, applied to a batch on its device."""

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

    def __call__(self, images: Tensor, seed: int, outside: Tensor | float = 0.0) -> Tensor:
        """Return randomly transformed images, by bilinear interpolation, in the shape of `images`.

        Args:
            images: (N, channels, height, width) float, in any units.
            seed: determines the transforms, so that a resumed run repeats them.
            outside: value of pixels from outside the image, in the units of `images`.
        """
        count, _, height, width = images.shape
        generator = torch.Generator(images.device).manual_seed(seed)
        draw = torch.rand(4, count, generator=generator, device=images.device).mul_(2).sub_(1)  # (4, N)
        angle, size = draw[0] * math.radians(self.rotation), 1 + draw[1] * self.scale
        across, down = draw[2] * self.shift * 2 / width, draw[3] * self.shift * 2 / height
        # affine_grid maps output pixels to input pixels, so a larger size is a smaller step.
        cos, sin = angle.cos() / size, angle.sin() / size
        # Its axes go from -1 to 1: without the ratio a rotation would shear where height and width differ.
        ratio = height / width
        affine = torch.stack([cos, -sin * ratio, across, sin / ratio, cos, down], dim=1).view(count, 2, 3)  # (N, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)  # (N, height, width, 2)
        return F.grid_sample(images - outside, grid, align_corners=False) + outside
