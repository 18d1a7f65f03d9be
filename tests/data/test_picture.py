"""A picture of any mode becomes grey or colour without losing what is drawn on it."""

import numpy as np
import pytest
import torch
from PIL import Image

from losslab.data.picture import fitted, opaque

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(opaque(picture, 1))


def test_grey_stays_as_it_is_in_every_mode_that_holds_it() -> None:
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        assert np.array_equal(pixels(Image.fromarray(RAMP).convert(mode)), RAMP), mode


def test_sixteen_bits_keep_their_upper_half() -> None:
    assert np.array_equal(pixels(Image.fromarray(RAMP.astype(np.uint16) * 257)), RAMP)


@pytest.mark.parametrize(("ink", "background"), [(0, 255), (255, 0), (60, 255), (200, 0)])
def test_what_is_transparent_becomes_the_farther_of_black_and_white(ink: int, background: int) -> None:
    alpha = np.zeros((5, 5), dtype=np.uint8)
    alpha[2] = 255
    picture = Image.fromarray(np.stack([np.full((5, 5), ink, dtype=np.uint8), alpha], axis=-1), "LA")
    assert np.array_equal(pixels(picture), np.where(alpha == 255, ink, background))
    assert (pixels(Image.new("LA", (3, 3), (7, 0))) == 255).all()  # nothing is drawn at all


def test_a_turned_photograph_is_turned_back() -> None:
    picture = Image.fromarray(RAMP[:4])
    picture.getexif()[0x0112] = 3  # turned by 180 degrees
    assert np.array_equal(pixels(picture), RAMP[:4][::-1, ::-1])


def test_a_picture_is_covered_from_its_middle() -> None:
    wide = np.zeros((8, 32, 3), dtype=np.uint8)
    wide[:, 8:24, 1] = 200
    image = fitted(Image.fromarray(wide), (3, 4, 4))
    assert image.shape == (3, 4, 4)
    assert image.dtype == torch.uint8
    assert (image[1] == 200).all()
    assert (image[[0, 2]] == 0).all()
    assert fitted(Image.fromarray(wide), (1, 4, 6)).shape == (1, 4, 6)
    with pytest.raises(ValueError, match="1 or 3 channels, and these images have 2"):
        fitted(Image.fromarray(wide), (2, 4, 4))
