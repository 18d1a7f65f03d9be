"""A picture of any mode becomes grey or colour without losing what is drawn on it."""

import numpy as np
import pytest
import torch
from PIL import Image

from losslab.data import MNISTDataModule
from losslab.data.mnist import embedded_mnist
from losslab.data.pictures import crop_to_fit, mnist_picture, to_opaque

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(to_opaque(picture, 1))


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
    image = crop_to_fit(Image.fromarray(wide), (3, 4, 4))
    assert image.shape == (3, 4, 4)
    assert image.dtype == torch.uint8
    assert (image[1] == 200).all()
    assert (image[[0, 2]] == 0).all()
    assert crop_to_fit(Image.fromarray(wide), (1, 4, 6)).shape == (1, 4, 6)
    with pytest.raises(ValueError, match="1 or 3 channels, and these images have 2"):
        crop_to_fit(Image.fromarray(wide), (2, 4, 4))


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return embedded_mnist("train").images[::40, 0]


def test_a_digit_of_mnist_stays_itself(digits: torch.Tensor) -> None:
    again = torch.stack([mnist_picture(Image.fromarray(digit.numpy()))[0] for digit in digits])
    assert again.dtype == torch.uint8
    assert (again.float() - digits.float()).abs().mean() < 1
    same = (again == digits).flatten(1).all(dim=1)
    assert same.float().mean() > 0.5  # of the others, an edge is fainter than what counts as ink


@pytest.mark.parametrize("paper", [0, 90, 160, 255])
def test_size_place_polarity_and_contrast_do_not_matter(digits: torch.Tensor, paper: int) -> None:
    ink = {0: 1, 90: 0.6, 160: -0.6, 255: -1}[paper]
    differences = []
    for number, digit in enumerate(digits):
        canvas = np.full((300, 420), paper, dtype=np.float64)
        row, column = (number * 7) % 160, (number * 13) % 280
        canvas[row : row + 140, column : column + 140] += ink * np.kron(digit.numpy(), np.ones((5, 5)))
        picture = Image.fromarray(canvas.round().astype(np.uint8))
        alone = mnist_picture(Image.fromarray(digit.numpy()))
        differences.append((mnist_picture(picture.convert("RGB")).float() - alone.float()).abs().max())
    if abs(ink) == 1:
        assert max(differences) == 0
    else:  # fewer levels of grey, among which a faint edge may change sides
        assert np.mean([difference <= 3 for difference in differences]) > 0.9


def centre(image: torch.Tensor) -> np.ndarray:
    mass = image[0].numpy().astype(float)
    grid = np.arange(28)
    return np.array([mass.sum(1) @ grid, mass.sum(0) @ grid]) / mass.sum()


def test_a_box_is_fitted_with_its_proportions_and_centred() -> None:
    picture = Image.new("L", (500, 200), 255)
    picture.paste(0, (10, 50, 50, 150))  # 40 wide, 100 high, far to the left
    image = mnist_picture(picture)[0]
    rows, columns = np.flatnonzero(image.any(dim=1)), np.flatnonzero(image.any(dim=0))
    assert (len(rows), len(columns)) == (20, 8)
    assert image.unique().tolist() == [0, 255]
    assert np.abs(centre(image[None]) - 14).max() <= 0.5


def test_a_lopsided_shape_stays_in_the_field() -> None:
    picture = Image.new("L", (400, 400))
    picture.paste(255, (0, 0, 400, 20))
    picture.paste(255, (0, 0, 4, 400))
    assert mnist_picture(picture)[0].shape == (28, 28)


@pytest.mark.parametrize("picture", [Image.new("L", (50, 50), 255), Image.new("RGB", (1, 1)), Image.new("LA", (9, 9))])
def test_an_empty_picture_is_told(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="the picture is empty"):
        MNISTDataModule().from_picture(picture)
