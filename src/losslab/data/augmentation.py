"""Small random affine changes, drawn for each image, applied to a whole batch at once on its device."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Rotation, shift and scale within limits that keep a digit the same digit. Never a flip.

    Args:
        rotation: largest angle, in degrees, either way; in [0, 45].
        shift: largest shift along each axis, in pixels; >= 0.
        scale: largest relative change of size, either way; in [0, 0.5].
        background: the value of a pixel from outside the image, in raw units; in [0, 255].
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
        """Change each of `images` (N, channels, height, width) float, at random, by bilinear interpolation.

        Args:
            images: the batch, in any units.
            seed: the change is a function of the images and of this, so that a resumed run repeats it.
            outside: the value of a pixel from outside the image, in the units of `images`.
        """
        count, _, height, width = images.shape
        generator = torch.Generator(images.device).manual_seed(seed)
        draw = torch.rand(4, count, generator=generator, device=images.device).mul_(2).sub_(1)
        angle, size = draw[0] * math.radians(self.rotation), 1 + draw[1] * self.scale
        across, down = draw[2] * self.shift * 2 / width, draw[3] * self.shift * 2 / height
        # affine_grid says where each pixel comes from, so a larger size is a smaller step.
        cos, sin = angle.cos() / size, angle.sin() / size
        # It counts each axis from -1 to 1: the ratio keeps a turn a turn where height and width differ.
        ratio = height / width
        affine = torch.stack([cos, -sin * ratio, across, sin / ratio, cos, down], dim=1).view(count, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        return F.grid_sample(images - outside, grid, align_corners=False) + outside
