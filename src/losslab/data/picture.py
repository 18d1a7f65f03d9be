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
