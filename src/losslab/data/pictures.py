"""Ordinary pictures, of any size and mode, as arrays of pixels."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for a number of channels."""


def opaque(picture: Image.Image, channels: int) -> Image.Image:
    """The picture upright, in grey (1 channel) or colour (3), 8 bits a channel.

    What is transparent becomes black or white, whichever is farther from what is drawn: a digit in black ink on nothing
    lies on white.

    Raises:
        ValueError: neither 1 nor 3 channels are wanted.
    """
    if channels not in MODES:
        raise ValueError(f"a picture has 1 or 3 channels, and these images have {channels}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits of grey; Pillow itself would clip them at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        grey, alpha = (np.asarray(part, dtype=np.float64) for part in (picture.convert("L"), picture.getchannel("A")))
        drawn = (grey * alpha).sum() / max(alpha.sum(), 1)
        background = Image.new("RGBA", picture.size, "black" if drawn > 127.5 else "white")
        picture = Image.alpha_composite(background, picture)
    return picture.convert(MODES[channels])


def fitted(picture: Image.Image, image_shape: tuple[int, int, int]) -> Tensor:
    """Scaled until it just covers (height, width), and cut around its middle: uint8 (channels, height, width).

    Raises:
        ValueError: `image_shape` has neither 1 nor 3 channels.
    """
    channels, height, width = image_shape
    covering = ImageOps.fit(opaque(picture, channels), (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(covering)).reshape(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous()


BOX, FIELD, CENTRE = 20, 28, 14.0
"""Sides of the square that the digit is fitted to and of the image, in pixels, and the place of its centre of mass.

Of the 60,000 training images 59,987 have an extent of exactly 20, and their centres of mass, rows and columns counted
from 0, are within 14 +- 0.52.
"""
FAINT = 0.2
"""Share of the strongest ink below which a pixel counts as paper when the digit's edges are looked for."""
LEAST_CONTRAST = 8
"""Grey levels between ink and paper, of 255, below which a picture counts as empty."""


def mnist_picture(picture: Image.Image) -> Tensor:
    """Find the digit, fit it to 20 x 20 with its proportions, and centre it by mass in 28 x 28.

    This is how the digits of NIST became MNIST's (LeCun et al. 1998, Gradient-based learning applied to document
    recognition, section III.A). The paper is what the picture's rim mostly shows; ink is what differs from it, darker
    or brighter, and its strongest becomes 255. The lighting must be even: shadows would count as ink.

    Args:
        picture: of any size and mode, one digit on it.

    Returns:
        uint8 (1, 28, 28), bright ink on 0.

    Raises:
        ValueError: there is nothing on it.
    """
    grey = np.asarray(opaque(picture, 1), dtype=np.float64)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    dark_ink = paper - grey.min() > grey.max() - paper
    ink = np.clip(paper - grey if dark_ink else grey - paper, 0, None)
    if ink.max() < LEAST_CONTRAST:
        raise ValueError("there is no digit on it: all pixels are alike")
    ink /= ink.max()
    rows, columns = (np.flatnonzero((ink > FAINT).any(axis=axis)) for axis in (1, 0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32), mode="F")
    scale = BOX / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    # BOX gives each smaller pixel the mean of what it covers.
    small = np.asarray(digit.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    image = np.zeros((1, FIELD, FIELD), dtype=np.uint8)
    top, left = (_offset(small.sum(axis=axis)) for axis in (1, 0))
    image[0, top : top + small.shape[0], left : left + small.shape[1]] = np.rint(small / small.max() * 255)
    return torch.from_numpy(image)


def _offset(mass: np.ndarray) -> int:
    """Where a strip with these masses begins so that its centre is in the middle, and all of it in the field."""
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return min(max(round(CENTRE - centre), 0), FIELD - len(mass))
