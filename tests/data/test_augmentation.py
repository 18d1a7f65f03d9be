import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.data import Augmentation, EpochOrder
from losslab.errors import UserError

STILL = {"rotation": 0.0, "shift": 0.0, "scale": 0.0}
SIZES = [(28, 28), (20, 36), (9, 5)]


@pytest.fixture
def letter() -> Tensor:
    """An F, which is neither its mirror image nor upside down: (28, 28)."""
    image = torch.zeros(28, 28)
    image[5:23, 8:11] = image[5:8, 8:20] = image[12:15, 8:16] = 1
    return image


def random_images(height: int, width: int) -> Tensor:
    return torch.rand(16, 2, height, width, generator=torch.Generator().manual_seed(0))


def blobs(height: int, width: int, *places: tuple[float, float], count: int = 64) -> Tensor:
    """`count` images with a channel for each place: a smooth blob so far (right, down) from the image's centre."""
    down, right = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    channels = [torch.exp(-((right - x) ** 2 + (down - y) ** 2) / 2) for x, y in places]
    return torch.stack(channels).expand(count, -1, -1, -1)


def centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """Where the blobs are, (right, down) of the image's centre: two (N, channels)."""
    height, width = images.shape[2:]
    mass = images.sum((2, 3))
    right = (images.sum(2) * (torch.arange(width) - (width - 1) / 2)).sum(2) / mass
    down = (images.sum(3) * (torch.arange(height) - (height - 1) / 2)).sum(2) / mass
    return right, down


def changed(change: Augmentation, images: Tensor, seed: int = 0, outside: float = 0.0) -> Tensor:
    """The images, each changed by random numbers."""
    draws = EpochOrder(len(images), seed).draws()
    return change(images, change.transforms(draws, *images.shape[2:]), outside)


def at_limit(change: Augmentation, images: Tensor, value: float, outside: float = 0.0) -> Tensor:
    """The images, every random change of which has its upper limit (value 1) or its lower one (-1)."""
    draws = torch.full((4, len(images)), value)
    return change(images, change.transforms(draws, *images.shape[2:]), outside)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_without_any_change_images_stay_as_they_are(height, width):
    images = random_images(height, width)
    torch.testing.assert_close(changed(Augmentation(**STILL), images, outside=0.5), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_numbers_decide_the_change_and_nothing_else_does(height, width):
    images, change = random_images(height, width), Augmentation()
    before = images.clone()
    torch.manual_seed(1)
    first = changed(change, images, seed=3)
    torch.manual_seed(2)
    assert torch.equal(changed(change, images, seed=3), first)
    assert not torch.equal(changed(change, images, seed=4), first)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_transform_is_affine_grids(height, width):
    images, change = random_images(height, width), Augmentation(rotation=45, shift=6, scale=0.5)
    transforms = change.transforms(EpochOrder(16, 0).draws(), height, width)
    grid = F.affine_grid(transforms, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(change(images, transforms), expected, atol=1e-5, rtol=0)


def test_an_image_is_changed_alike_in_a_batch_and_alone():
    images, change = random_images(28, 28), Augmentation()
    transforms = change.transforms(EpochOrder(16, 0).draws(), 28, 28)
    together = change(images, transforms, 0.5)
    for k in range(16):
        assert torch.equal(change(images[k : k + 1], transforms[k : k + 1], 0.5), together[k : k + 1])


def test_drawing_leaves_the_global_generator_alone(letter):
    before = torch.get_rng_state()
    changed(Augmentation(), letter[None, None])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "only", [{"rotation": 10.0}, {"shift": 2.0}, {"scale": 0.1}], ids=lambda only: next(iter(only))
)
def test_every_image_of_a_batch_gets_its_own_change(letter, only):
    different = changed(Augmentation(**(STILL | only)), letter.expand(32, 1, 28, 28)).flatten(1)
    differences = torch.cdist(different, different) + torch.eye(32)
    assert differences.min() > 1e-3


@pytest.mark.parametrize("background", [-0.4, 0.0, 2.8])
def test_what_comes_from_outside_has_the_value_of_the_background(background):
    change = Augmentation(rotation=45, shift=6, scale=0.5)
    plain = torch.full((32, 1, 28, 28), background)
    torch.testing.assert_close(changed(change, plain, outside=background), plain, atol=1e-6, rtol=0)
    ones = changed(change, torch.ones(32, 1, 28, 28), outside=background)
    low, high = min(1.0, background), max(1.0, background)
    assert ones.min() == pytest.approx(low, abs=1e-5)
    assert ones.max() == pytest.approx(high, abs=1e-5)


def test_a_changed_letter_is_nearer_to_the_letter_than_to_its_mirror_images(letter):
    letters = changed(Augmentation(), letter.expand(500, 1, 28, 28))[:, 0]

    def best_match(shape: Tensor) -> Tensor:
        """The largest correlation of each image with `shape` over all positions of it."""
        match = torch.fft.irfft2(torch.fft.rfft2(letters) * torch.fft.rfft2(shape).conj())
        return match.flatten(1).max(1).values

    assert (best_match(letter) > best_match(letter.flip(1))).all()
    assert (best_match(letter) > best_match(letter.flip(0))).all()


def test_no_image_is_ever_mirrored_however_wide_the_limits():
    images = blobs(48, 48, (0, 0), (6, 0), (0, 6), count=500)
    right, down = centres(changed(Augmentation(rotation=45, shift=4, scale=0.5), images))
    right, down = right[:, 1:] - right[:, :1], down[:, 1:] - down[:, :1]
    area = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]  # 36 before; negative in a mirror
    assert area.min() > 36 * 0.5**2 - 1
    assert area.max() < 36 * 1.5**2 + 1


@pytest.mark.parametrize(("height", "width"), [(28, 28), (28, 44), (44, 28)])
def test_a_rotation_keeps_lengths_and_angles_also_where_height_and_width_differ(height, width):
    images = blobs(height, width, (9, 0), (0, 9))
    right, down = centres(changed(Augmentation(**(STILL | {"rotation": 30.0})), images))
    torch.testing.assert_close(torch.hypot(right, down), torch.full((64, 2), 9.0), atol=0.03, rtol=0)
    angle = torch.atan2(down, right) * 180 / math.pi
    torch.testing.assert_close(angle[:, 1] - angle[:, 0], torch.full((64,), 90.0), atol=0.3, rtol=0)
    assert angle[:, 0].abs().max() < 30.2
    assert angle[:, 0].min() < -24
    assert angle[:, 0].max() > 24


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_shift_is_in_pixels_along_each_axis(height, width):
    images, change = random_images(height, width), Augmentation(**(STILL | {"shift": 2.0}))
    for direction in (1, -1):
        expected = torch.full_like(images, 0.5)
        if direction == 1:
            expected[..., :-2, :-2] = images[..., 2:, 2:]
        else:
            expected[..., 2:, 2:] = images[..., :-2, :-2]
        torch.testing.assert_close(at_limit(change, images, direction, 0.5), expected, atol=1e-4, rtol=0)


def test_shifts_reach_every_way_and_stay_within_their_limit():
    right, down = centres(changed(Augmentation(**(STILL | {"shift": 3.0})), blobs(28, 40, (0, 0))))
    for moved in (right, down):
        assert moved.abs().max() < 3.01
        assert moved.min() < -2.5
        assert moved.max() > 2.5
    assert abs(torch.corrcoef(torch.cat([right, down], 1).T)[0, 1]) < 0.4  # one axis knows nothing of the other


@pytest.mark.parametrize(("height", "width"), [(36, 36), (36, 44)])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_scale_is_the_relative_change_of_size(height, width, direction):
    images = blobs(height, width, (7, 0), (0, -7), count=1)
    right, down = centres(at_limit(Augmentation(**(STILL | {"scale": 0.5})), images, direction))
    size = 1 + 0.5 * direction
    torch.testing.assert_close(right, torch.tensor([[7.0, 0.0]]) * size, atol=0.05, rtol=0)
    torch.testing.assert_close(down, torch.tensor([[0.0, -7.0]]) * size, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("name", "allowed", "value"),
    [
        ("rotation", "[0, 45]", -0.1),
        ("rotation", "[0, 45]", 45.1),
        ("rotation", "[0, 45]", math.nan),
        ("shift", "[0, inf]", -1.0),
        ("scale", "[0, 0.5]", -0.1),
        ("scale", "[0, 0.5]", 0.51),
        ("background", "[0, 255]", -1),
        ("background", "[0, 255]", 256),
    ],
)
def test_a_limit_out_of_its_range_names_itself(name, allowed, value):
    with pytest.raises(UserError) as refusal:
        Augmentation(**{name: value})
    assert str(refusal.value) == f"augmentation.{name} must be in {allowed}, got {value}."


def test_the_ends_of_the_ranges_are_allowed():
    widest = Augmentation(rotation=45, shift=100, scale=0.5, background=255)
    assert changed(widest, torch.zeros(2, 1, 8, 8)).isfinite().all()
