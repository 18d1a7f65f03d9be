"""Pictures of any size and mode as images of a data set, scaled and cut, or centred like MNIST's."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for a number of channels."""

BOX, FIELD, CENTRE = 20, 28, 14.0
"""Sides of the digit's square and of the image, and row and column of the centre of mass, in pixels.

Of MNIST's 60,000 training images 59,987 have an extent of exactly 20, and their centres of mass, counted from 0, are
within 14 +- 0.52.
"""
FAINT = 0.2
"""Share of the strongest ink below which a pixel counts as paper when the digit's edges are searched."""
LEAST_CONTRAST = 8
"""Grey levels between ink and paper, of 255, below which a picture counts as empty."""


def crop_to_fit(picture: Image.Image, image_shape: tuple[int, int, int]) -> Tensor:
    """Return the picture scaled until it just covers (height, width), cut around its middle.

    Returns:
        uint8 (channels, height, width).

    Raises:
        ValueError: `image_shape` has neither 1 nor 3 channels.
    """
    channels, height, width = image_shape
    covering = ImageOps.fit(to_opaque(picture, channels), (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(covering)).reshape(height, width, channels)  # (height, width, channels)
    return pixels.permute(2, 0, 1).contiguous()  # (channels, height, width)


def mnist_picture(picture: Image.Image) -> Tensor:
    """Find the digit, scale it to 20 x 20 with its proportions, and centre it by mass in 28 x 28.

    MNIST was made from NIST's digits in this way (LeCun et al. 1998, Gradient-based learning applied to document
    recognition, section III.A). The paper's grey level is the median of the picture's rim; ink is the difference from
    it, darker or brighter, and the strongest ink becomes 255. The light must be even: shadows would count as ink.

    Args:
        picture: of any size and mode, one digit on it.

    Returns:
        uint8 (1, 28, 28), bright ink on 0.

    Raises:
        ValueError: the picture is empty.
    """
    grey = np.asarray(to_opaque(picture, 1), dtype=np.float64)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    dark_ink = paper - grey.min() > grey.max() - paper
    ink = np.clip(paper - grey if dark_ink else grey - paper, 0, None)
    if ink.max() < LEAST_CONTRAST:
        raise ValueError("the picture is empty: all pixels are alike")
    ink /= ink.max()
    rows, columns = (np.flatnonzero((ink > FAINT).any(axis=axis)) for axis in (1, 0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32), mode="F")
    scale = BOX / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    # Resampling.BOX averages the pixels that a smaller pixel covers.
    small = np.asarray(digit.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    image = np.zeros((1, FIELD, FIELD), dtype=np.uint8)  # (1, 28, 28)
    top, left = (_offset(small.sum(axis=axis)) for axis in (1, 0))
    image[0, top : top + small.shape[0], left : left + small.shape[1]] = np.rint(small / small.max() * 255)
    return torch.from_numpy(image)


def to_opaque(picture: Image.Image, channels: int) -> Image.Image:
    """Return the picture upright, in grey (1 channel) or colour (3), with 8 bits per channel.

    Transparent pixels become black or white, whichever differs more from the visible ones: black ink gets white paper.

    Raises:
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise ValueError(f"a picture has 1 or 3 channels, and these images have {channels}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        grey, alpha = (np.asarray(part, dtype=np.float64) for part in (picture.convert("L"), picture.getchannel("A")))
        drawn = (grey * alpha).sum() / max(alpha.sum(), 1)
        background = Image.new("RGBA", picture.size, "black" if drawn > 127.5 else "white")
        picture = Image.alpha_composite(background, picture)
    return picture.convert(MODES[channels])


def _offset(mass: np.ndarray) -> int:
    """Return the first row (column) of a digit with these row (column) masses: centred by mass, inside the field."""
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return min(max(round(CENTRE - centre), 0), FIELD - len(mass))
