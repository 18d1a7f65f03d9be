import hashlib
import re
import weakref

import pytest
import torch

from losslab.data import LabelledImages
from losslab.data.labelled_images import KeptImages, Split
from losslab.errors import UserError


@pytest.fixture
def six() -> LabelledImages:
    """Six 1 x 2 x 2 images with the pixels 0..23, of classes 0, 1, 2, 0, 1, 2."""
    return LabelledImages(torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (torch.tensor([4, 0, 4]), [4, 0, 4]),
        (torch.tensor([False, True, False, False, False, True]), [1, 5]),
        (slice(1, None, 2), [1, 3, 5]),
    ],
    ids=["positions", "mask", "slice"],
)
def test_images_are_taken_together_with_their_labels(six, index, expected):
    part = six.take(index)
    assert part.images[:, 0, 0, 0].tolist() == [4 * k for k in expected]
    assert part.labels.tolist() == [k % 3 for k in expected]


def test_images_and_labels_move_to_a_device_together(six):
    moved = six.to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")


def test_a_split_has_the_images_at_its_positions_and_its_own_labels(six):
    split = Split(six.images, torch.tensor([4, 0, 4]), torch.tensor([7, 8, 9]))
    own = split.gathered()
    assert torch.equal(own.images, six.take(torch.tensor([4, 0, 4])).images)
    assert own.labels.tolist() == [7, 8, 9]
    assert split.take(slice(1, None)).gathered().labels.tolist() == [8, 9]
    assert six.whole().gathered().fingerprint() == six.fingerprint()


def test_splits_of_the_same_images_share_one_copy_on_a_device_as_long_as_the_images_live(six):
    meta = torch.device("meta")
    splits = [Split(six.images, torch.arange(size), six.labels[:size]).to(meta) for size in (2, 4)]
    assert splits[0].images is splits[1].images
    assert {part.device for split in splits for part in split} == {meta}
    assert splits[0].to(meta).images is splits[0].images
    assert six.whole().to(torch.device("cpu")).images is six.images
    other = LabelledImages(six.images.clone(), six.labels)
    copy = weakref.ref(other.whole().to(meta).images)
    assert copy() is not None
    assert copy() is not splits[0].images
    del other
    assert copy() is None


def test_kept_images_are_hashed_once_until_somebody_writes_to_them(six, monkeypatch):
    kept, expected = KeptImages(six.images.clone(), six.labels.clone()), six.fingerprint()
    assert not kept.is_changed
    assert kept.fingerprint() == expected
    with monkeypatch.context() as patched:
        patched.setattr(LabelledImages, "fingerprint", lambda self: pytest.fail("hashed again"))
        assert kept.fingerprint() == expected
    kept.labels[0] = 1
    assert kept.is_changed
    assert kept.fingerprint() == LabelledImages(*kept).fingerprint() != expected
    assert KeptImages(*six)._replace(labels=kept.labels).fingerprint() == kept.fingerprint()


def test_the_fingerprint_is_sha256_over_shape_pixels_and_labels(six):
    content = b"(6, 1, 2, 2)" + bytes(range(24)) + b"".join((k % 3).to_bytes(8, "little") for k in range(6))
    assert six.fingerprint() == hashlib.sha256(content).hexdigest()


def test_the_fingerprint_is_of_the_values_and_not_of_their_place_in_memory(six):
    strided = LabelledImages(six.images.repeat_interleave(2, 0)[::2], six.labels.repeat_interleave(2)[::2])
    assert not strided.images.is_contiguous()
    assert strided.fingerprint() == six.fingerprint()


def test_any_change_changes_the_fingerprint(six):
    one_pixel, one_label = six.images.clone(), six.labels.clone()
    one_pixel[5, 0, 1, 1] += 1
    one_label[0] = 1
    changed = [
        six._replace(images=one_pixel),
        six._replace(labels=one_label),
        six._replace(images=six.images.reshape(6, 1, 4, 1)),
        six.take(torch.tensor([1, 0, 2, 3, 4, 5])),
        six.take(slice(5)),
    ]
    assert len({part.fingerprint() for part in [six, *changed]}) == 6


def test_a_sound_set_passes_and_so_does_an_empty_one(six):
    assert six.check("training", (1, 2, 2), 3) is None
    assert six.take(slice(0)).check("training", (1, 2, 2), 3) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(images=s.images.float()),
            "images must be uint8 of shape (N, 1, 2, 2), got torch.float32",
        ),
        (lambda s: s._replace(images=s.images[:, 0]), "(N, 1, 2, 2), got torch.uint8 of shape (6, 2, 2)"),
        (lambda s: s._replace(images=s.images.reshape(6, 2, 2, 1)), "got torch.uint8 of shape (6, 2, 2, 1)"),
        (lambda s: s._replace(labels=s.labels.int()), "labels must be int64 of shape (6,), one for each image, got"),
        (lambda s: s._replace(labels=s.labels[:5]), "got torch.int64 of shape (5,)"),
        (lambda s: s._replace(labels=s.labels[:, None]), "got torch.int64 of shape (6, 1)"),
        (lambda s: s._replace(labels=s.labels + 1), "labels must be in 0..2, got 1..3"),
        (lambda s: s._replace(labels=s.labels - 1), "labels must be in 0..2, got -1..1"),
    ],
    ids=["float", "no channel", "other shape", "int32", "fewer labels", "one-hot", "too large", "negative"],
)
def test_a_wrong_set_is_refused_with_what_was_expected_and_what_came(six, change, message):
    with pytest.raises(UserError, match=f"^test .*{re.escape(message)}"):
        change(six).check("test", (1, 2, 2), 3)
