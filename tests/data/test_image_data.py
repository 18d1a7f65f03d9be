import copy
import hashlib
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_digits import TinyDigits

from losslab.data import Augmentation, ImageDataModule, LabelledImages
from losslab.errors import UserError


def numbered(labels: Sequence[int]) -> LabelledImages:
    """Images of 1 x 2 x 3 pixels; image k has k written in its first two."""
    images = torch.zeros(len(labels), 1, 2, 3, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(len(labels)) // 256, torch.arange(len(labels)) % 256
    return LabelledImages(images, torch.tensor(labels, dtype=torch.int64))


def numbers(split: LabelledImages) -> list[int]:
    return (split.images[:, 0, 0, 0].int() * 256 + split.images[:, 0, 0, 1].int()).tolist()


class Numbered(ImageDataModule):
    """300 images to train and validate on, of classes with 60, 90 and 150 images, and 30 to test on."""

    data_name = "numbered"
    class_names: tuple[str, ...] = ("a", "b", "c")
    image_shape = (1, 2, 3)
    labels: Sequence[int] = (0, 0, 1, 1, 1, 2, 2, 2, 2, 2) * 30
    loads = 0

    def load_train(self) -> LabelledImages:
        self.loads += 1
        return numbered(self.labels)

    def load_test(self) -> LabelledImages:
        self.loads += 1
        return numbered([k % 3 for k in range(30)])


class Untestable(Numbered):
    def load_test(self) -> LabelledImages:
        pytest.fail("the test images were loaded")


class TestOnly(Numbered):
    __test__ = False

    def load_train(self) -> LabelledImages:
        pytest.fail("the training images were loaded")


def fitted(kind: type[ImageDataModule] = Numbered, **arguments) -> ImageDataModule:
    data = kind(**arguments)
    data.setup("fit")
    return data


def by_class(split: LabelledImages) -> list[int]:
    return torch.bincount(split.labels, minlength=3).tolist()


def with_labels(labels: list[int]) -> type[Numbered]:
    return type("Labelled", (Numbered,), {"labels": labels})


def on_rank(data: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    """`data` as it would be under a Trainer on one of several processes."""
    data = copy.copy(data)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    return data


# The split


@pytest.mark.parametrize("val_size", [3, 30, 77, 297])
def test_every_image_is_in_exactly_one_split_and_keeps_its_label(val_size):
    data = fitted(val_size=val_size)
    train, val = data.split("train"), data.split("val")
    assert len(val.labels) == val_size
    assert sorted(numbers(train) + numbers(val)) == list(range(300))
    for split in (train, val):
        assert split.labels.tolist() == [Numbered.labels[k] for k in numbers(split)]


@pytest.mark.parametrize("val_size", [10, 33, 77, 200])
def test_each_class_has_its_share_of_validation(val_size):
    shares = torch.tensor(by_class(fitted(val_size=val_size).split("val"))) - torch.tensor([0.2, 0.3, 0.5]) * val_size
    assert shares.abs().max() < 1


def test_the_validation_size_is_the_argument_else_the_data_sets_own_else_a_tenth():
    assert len(fitted().split("val").labels) == 30
    own = type("Own", (Numbered,), {"default_val_size": 45})
    assert len(fitted(own).split("val").labels) == 45
    assert len(fitted(own, val_size=60).split("val").labels) == 60


def test_split_seed_alone_decides_the_split():
    reference = fitted(split_seed=4, seed=0)
    torch.manual_seed(1)
    np.random.seed(1)
    for seed in (0, 1, 4):
        same = fitted(split_seed=4, seed=seed)
        assert numbers(same.split("val")) == numbers(reference.split("val"))
        assert numbers(same.split("train")) == numbers(reference.split("train"))
    other = fitted(split_seed=5, seed=0)
    assert numbers(other.split("val")) != numbers(reference.split("val"))


def test_without_a_split_seed_the_split_is_that_of_the_runs_seed():
    own = [fitted(seed=seed) for seed in range(4)]
    assert len({tuple(numbers(data.split("val"))) for data in own}) == 4
    for seed, data in enumerate(own):
        assert data.hashes == fitted(split_seed=seed, seed=9).hashes
        assert fitted(seed=seed).hashes == data.hashes


@pytest.mark.parametrize(
    "change",
    [
        {"imbalance": 0.1},
        {"imbalance": 0.1, "permute_ranks": True, "seed": 3},
        {"label_noise": 0.4},
        {"imbalance": 0.2, "label_noise": 0.4, "seed": 3},
        {"augmentation": Augmentation()},
    ],
    ids=str,
)
def test_validation_images_and_labels_are_untouched_by_what_is_done_to_training(change):
    plain, changed = fitted(seed=change.get("seed", 0)), fitted(**change)
    assert changed.split("val").fingerprint() == plain.split("val").fingerprint()
    assert set(numbers(changed.split("train"))) <= set(numbers(plain.split("train")))


HARDER = [{"imbalance": 0.25}, {"label_noise": 0.2}, {"imbalance": 0.25, "permute_ranks": True, "label_noise": 0.2}]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("change", HARDER, ids=str)
def test_the_training_images_are_the_same_however_validation_is_drawn(change, seed):
    balanced, like_training = (
        fitted(val_size=100, seed=seed, validation=name, **change) for name in ("balanced", "like_training")
    )
    assert like_training.split("train").fingerprint() == balanced.split("train").fingerprint()
    assert like_training.class_ranks == balanced.class_ranks
    assert like_training.split("val").fingerprint() != balanced.split("val").fingerprint()
    assert set(numbers(like_training.split("val"))) <= set(numbers(balanced.split("val")))


def test_validation_like_training_has_the_tail_and_the_noise_of_the_training():
    tail = fitted(val_size=100, imbalance=0.25, validation="like_training")
    assert by_class(tail.split("train")) == [40, 20, 10]
    assert by_class(tail.split("val")) == [20, 10, 5]
    noisy = fitted(val_size=100, label_noise=0.2, validation="like_training").split("val")
    assert sum(label != Numbered.labels[k] for k, label in zip(numbers(noisy), noisy.labels, strict=True)) == 20
    both = fitted(val_size=100, imbalance=0.25, label_noise=0.2, validation="like_training").split("val")
    assert numbers(both) == numbers(tail.split("val"))
    assert sum(label != Numbered.labels[k] for k, label in zip(numbers(both), both.labels, strict=True)) == 7


@pytest.mark.parametrize("seed", range(4))
def test_a_class_has_the_same_rank_in_training_and_in_validation_like_training(seed):
    data = fitted(val_size=100, imbalance=0.25, permute_ranks=True, seed=seed, validation="like_training")
    assert by_class(data.split("train")) == [[40, 20, 10][rank] for rank in data.class_ranks]
    assert by_class(data.split("val")) == [[20, 10, 5][rank] for rank in data.class_ranks]


def test_validation_like_training_keeps_an_image_of_each_class_under_any_tail():
    assert by_class(fitted(val_size=10, imbalance=0.001, validation="like_training").split("val")) == [2, 1, 1]


def test_without_tail_and_noise_validation_like_training_is_the_balanced_one():
    balanced, like_training = fitted(), fitted(validation="like_training")
    assert like_training.hashes == balanced.hashes
    assert like_training.split("val").fingerprint() == balanced.split("val").fingerprint()


@pytest.mark.parametrize("change", HARDER, ids=str)
def test_the_test_images_stay_as_they_are_under_validation_like_training(change):
    data = fitted(validation="like_training", **change)
    data.setup("test")
    assert data.split("test").fingerprint() == numbered([k % 3 for k in range(30)]).fingerprint()


# Long tail and label noise


def test_a_long_tail_falls_from_what_the_smallest_class_has_to_give():
    assert by_class(fitted(val_size=100, imbalance=0.25).split("train")) == [40, 20, 10]
    assert by_class(fitted(val_size=100, imbalance=1.0).split("train")) == [40, 40, 40]
    assert by_class(fitted(val_size=100).split("train")) == [40, 60, 100]


def test_a_long_tail_has_the_same_size_for_every_permutation_of_ranks():
    seen = set()
    for seed in range(30):
        data = fitted(val_size=100, imbalance=0.25, permute_ranks=True, seed=seed)
        assert data.class_counts.tolist() == [[40, 20, 10][rank] for rank in data.class_ranks]
        seen.add(tuple(data.class_ranks))
    assert len(seen) == 6


def test_ranks_are_the_classes_own_order_unless_permuted_by_the_seed():
    assert Numbered(seed=1).class_ranks == [0, 1, 2]
    assert Numbered(seed=1, permute_ranks=True).class_ranks == Numbered(seed=1, permute_ranks=True).class_ranks
    assert all(type(rank) is int for rank in Numbered(permute_ranks=True).class_ranks)  # so that a record can hold it


def test_label_noise_acts_on_the_share_of_training_labels_that_it_says():
    data = fitted(label_noise=0.3)
    train = data.split("train")
    wrong = sum(label != Numbered.labels[k] for label, k in zip(train.labels.tolist(), numbers(train), strict=True))
    assert wrong == 81  # of 270


def test_label_noise_follows_the_long_tail():
    plain, noisy = fitted(imbalance=0.1), fitted(imbalance=0.1, label_noise=0.3)
    assert numbers(noisy.split("train")) == numbers(plain.split("train"))
    changed = noisy.split("train").labels != plain.split("train").labels
    assert int(changed.sum()) == round(0.3 * len(changed))


def test_the_seed_decides_which_images_stay_and_which_labels_are_wrong():
    one, same, other = (fitted(imbalance=0.1, label_noise=0.3, seed=seed).split("train") for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint()
    assert numbers(one) != numbers(other)


def test_class_counts_are_of_the_training_labels_as_trained():
    assert fitted().class_counts.tolist() == [54, 81, 135]
    noisy = fitted(label_noise=0.5)
    assert noisy.class_counts.tolist() == by_class(noisy.split("train"))
    assert noisy.class_counts.tolist() != [54, 81, 135]
    assert (noisy.class_counts.dtype, noisy.class_counts.device.type) == (torch.int64, "cpu")


@pytest.mark.parametrize("change", [{"label_noise": 0.2}, {"label_noise": 0.2, "imbalance": 0.5}], ids=str)
def test_wrong_labels_and_right_ones_are_mixed_in_every_epoch(change):
    """Order, long tail and noise are drawn by one seed, and yet independently of each other."""
    for seed in range(3):
        right = fitted(**(change | {"label_noise": 0.0}), seed=seed).split("train").labels
        data = fitted(**change, seed=seed)
        wrong = data.split("train").labels != right
        batches = data.train_dataloader()
        for epoch in range(8):
            batches.sampler.set_epoch(epoch)
            order = batches.sampler.indices()
            early = wrong[order[: len(order) // 5]]
            # The share among the first fifth is 1/5 on average; 4.5 standard deviations either way.
            assert abs(float(early.float().mean()) - 0.2) < 4.5 * math.sqrt(0.2 * 0.8 / len(early))


# What is loaded, when, and where to


@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_test_images_are_loaded_for_a_test_only(stage):
    data = Untestable()
    data.setup(stage)
    for batches in (data.train_dataloader(), data.val_dataloader(), data.predict_dataloader()):
        assert len(list(batches)) == len(batches)
    assert "test" not in data.hashes


def test_a_test_loads_the_test_images_alone():
    data = TestOnly()
    data.setup("test")
    assert numbers(data.split("test")) == list(range(30))
    assert list(data.hashes) == ["test"]


def test_prediction_is_of_the_validation_images():
    data = fitted()
    predicted = torch.cat([images for images, _ in data.predict_dataloader()])
    assert torch.equal(predicted, torch.cat([images for images, _ in data.val_dataloader()]))
    assert len(predicted) == 30


def test_setup_again_loads_nothing_and_changes_nothing():
    data = fitted(imbalance=0.1, label_noise=0.2)
    train, hashes = data.split("train").fingerprint(), dict(data.hashes)
    for stage in ("fit", "validate", "predict"):
        data.setup(stage)
    assert data.loads == 1
    assert data.split("train").fingerprint() == train
    assert data.hashes == hashes
    data.setup("test")
    data.setup("test")
    assert data.loads == 2
    assert data.split("train").fingerprint() == train
    assert data.hashes.items() > hashes.items()


def test_splits_hold_no_copy_of_the_images():
    every = numbered(Numbered.labels)
    data = fitted(type("Held", (Numbered,), {"load_train": lambda self: every}), imbalance=0.5, label_noise=0.1)
    assert data.train_dataloader().split.images is data.val_dataloader().split.images is every.images


def test_splits_lie_on_the_trainers_device():
    data = Numbered()
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    data.setup("fit")
    data.setup("test")
    for name in ("train", "val", "test"):
        assert {part.device.type for part in data.split(name)} == {"meta"}


# Batches


def test_pixels_are_centred_and_scaled_by_the_data_sets_mean_and_deviation():
    standard = type("Standard", (Numbered,), {"pixel_mean": 0.25, "pixel_std": 0.5})
    data = fitted(standard)
    (images, _), *_ = data.val_dataloader()
    expected = (data.split("val").images.double() / 255 - 0.25) / 0.5
    torch.testing.assert_close(images.double(), expected, atol=1e-6, rtol=0)


def test_digits_arrive_with_mean_near_0_and_deviation_near_1():
    digits = type("Standard", (TinyDigits,), {"pixel_mean": 0.1307, "pixel_std": 0.3081})
    images = torch.cat([images for images, _ in fitted(digits).evaluation_dataloader("train")])
    assert images.mean() == pytest.approx(0, abs=0.05)
    assert images.std() == pytest.approx(1, abs=0.05)


def test_batch_sizes_are_those_of_training_and_of_evaluation():
    data = fitted(batch_size=100, eval_batch_size=7)
    assert [len(labels) for _, labels in data.train_dataloader()] == [100, 100, 70]
    assert [len(labels) for _, labels in data.val_dataloader()] == [7, 7, 7, 7, 2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_evaluation_sees_every_image_once_over_all_ranks(split, world_size):
    data = fitted(eval_batch_size=8)
    data.setup("test")
    whole = data.split(split)
    shards = [on_rank(data, rank, world_size).evaluation_dataloader(split) for rank in range(world_size)]
    shares = [torch.cat([labels for _, labels in shard]) for shard in shards]
    for rank, share in enumerate(shares):
        assert torch.equal(share, whole.labels[rank::world_size])
    seen = [number for shard in shards for number in numbers(shard.split.gathered())]
    assert sorted(seen) == numbers(whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_train_on_their_shares_of_one_epoch(world_size):
    data = fitted(val_size=31, batch_size=10)
    loaders = [on_rank(data, rank, world_size).train_dataloader() for rank in range(world_size)]
    assert {len(loader.sampler) for loader in loaders} == {269 // world_size}
    used = torch.cat([loader.sampler.indices() for loader in loaders])
    assert len(used.unique()) == len(used) == 269 - 269 % world_size


def test_more_processes_than_training_images_are_refused():
    data = on_rank(fitted(with_labels([0, 0, 1, 1, 2, 2]), val_size=3), 0, 4)
    with pytest.raises(UserError, match="3 training images are too few for 4 processes"):
        data.train_dataloader()


def test_the_seed_orders_the_training_images():
    def first_batch(seed: int) -> list[int]:
        return next(iter(fitted(seed=seed, batch_size=50).train_dataloader()))[1].tolist()

    assert first_batch(1) == first_batch(1)
    assert first_batch(1) != first_batch(2)


def test_augmentation_changes_training_batches_and_nothing_else():
    plain, augmented = fitted(TinyDigits), fitted(TinyDigits, augmentation=Augmentation())
    for (before, labels), (after, same) in zip(plain.train_dataloader(), augmented.train_dataloader(), strict=True):
        assert torch.equal(labels, same)
        assert (before != after).flatten(1).any(1).all()
    for split in ("train", "val"):
        pairs = zip(plain.evaluation_dataloader(split), augmented.evaluation_dataloader(split), strict=True)
        assert all(torch.equal(before, after) for (before, _), (after, _) in pairs)


@pytest.mark.parametrize("background", [0, 100, 255])
def test_what_augmentation_moves_in_has_the_background_in_the_networks_units(background):
    class Plain(Numbered):
        image_shape = (1, 8, 8)
        pixel_mean, pixel_std = 0.1307, 0.3081

        def load_train(self) -> LabelledImages:
            return LabelledImages(torch.full((300, 1, 8, 8), background, dtype=torch.uint8), torch.tensor(self.labels))

    data = fitted(Plain, augmentation=Augmentation(rotation=45, shift=6, scale=0.5, background=background))
    (images, _), *_ = data.train_dataloader()
    expected = torch.full_like(images, (background / 255 - 0.1307) / 0.3081)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


# Hashes


def test_hashes_are_the_same_for_the_same_data_and_split():
    one, same = fitted(imbalance=0.2, label_noise=0.1), fitted(imbalance=0.2, label_noise=0.1)
    assert one.hashes == same.hashes
    assert set(one.hashes) == {"train", "split"}
    assert all(len(value) == 64 for value in one.hashes.values())


@pytest.mark.parametrize(
    "change",
    [
        {"split_seed": 1},
        {"val_size": 31},
        {"imbalance": 0.5},
        {"label_noise": 0.1},
        {"label_noise": 0.1, "seed": 1},
        {"imbalance": 0.5, "permute_ranks": True, "seed": 1},
    ],
    ids=str,
)
def test_another_split_of_the_same_images_changes_the_hash_of_the_split_alone(change):
    plain, changed = fitted(), fitted(**change)
    assert changed.hashes["train"] == plain.hashes["train"]
    assert changed.hashes["split"] != plain.hashes["split"]


def test_the_hash_of_the_split_tells_which_images_a_long_tail_keeps():
    """Here the labels alone would not: class after class, they are the same for every choice of images."""
    kind = with_labels(sorted(Numbered.labels))
    one, other = (fitted(kind, imbalance=0.5, split_seed=0, seed=seed) for seed in (0, 1))
    assert torch.equal(one.split("train").labels, other.split("train").labels)
    assert one.hashes["split"] != other.hashes["split"]


def test_a_seed_that_decides_nothing_about_the_split_changes_no_hash():
    assert fitted(split_seed=0, seed=1, batch_size=7, augmentation=Augmentation()).hashes == fitted().hashes


@pytest.mark.parametrize("change", [{}, *HARDER], ids=str)
def test_the_hash_of_a_split_with_balanced_validation_is_that_of_its_positions_and_labels_as_trained(change):
    """Thus it is the hash that earlier versions, which had no other validation, recorded for the same split."""
    data = fitted(val_size=100, split_seed=3, seed=1, **change)
    train, val = data.split("train"), data.split("val")
    content = np.concatenate([numbers(train), train.labels.numpy(), numbers(val)]).astype(np.int64)
    assert data.hashes["split"] == hashlib.sha256(content.tobytes()).hexdigest()


@pytest.mark.parametrize("change", HARDER, ids=str)
def test_the_hash_of_the_split_tells_which_images_and_labels_validation_like_training_has(change):
    balanced, like_training = fitted(**change), fitted(validation="like_training", **change)
    assert like_training.hashes["train"] == balanced.hashes["train"]
    assert like_training.hashes["split"] != balanced.hashes["split"]


def test_other_images_change_the_hash_of_the_images():
    class Brighter(Numbered):
        def load_train(self) -> LabelledImages:
            return super().load_train()._replace(images=super().load_train().images + 1)

    assert fitted(Brighter).hashes["train"] != fitted().hashes["train"]
    assert fitted(Brighter).hashes["split"] == fitted().hashes["split"]


def test_the_hash_of_the_test_images_is_theirs():
    data = fitted()
    data.setup("test")
    assert data.hashes["test"] == numbered([k % 3 for k in range(30)]).fingerprint()


# Mistakes


@pytest.mark.parametrize(
    ("name", "allowed", "values"),
    [
        ("batch_size", ">= 1", [0, -1]),
        ("eval_batch_size", ">= 1", [0, -1]),
        ("val_size", ">= 1", [0, -1]),
        ("split_seed", ">= 0", [-1]),
        ("seed", ">= 0", [-1]),
        ("imbalance", "in (0, 1] or null", [0.0, -0.1, 1.1, math.nan]),
        ("label_noise", "in [0, 1)", [-0.1, 1.0, 1.5, math.nan]),
    ],
)
def test_an_argument_out_of_its_range_names_itself_its_range_and_its_value(name, allowed, values):
    for value in values:
        with pytest.raises(UserError) as refusal:
            Numbered(**{name: value})
        assert str(refusal.value) == f"data.{name} must be {allowed}, got {value}."


def test_the_ends_of_the_ranges_are_allowed():
    data = fitted(batch_size=1, eval_batch_size=1, val_size=3, split_seed=0, seed=0, imbalance=1.0, label_noise=0.0)
    assert len(data.split("val").labels) == 3


@pytest.mark.parametrize("val_size", [2, 298, 300, 1000])
def test_a_validation_size_that_does_not_fit_names_what_would(val_size):
    with pytest.raises(UserError) as refusal:
        fitted(val_size=val_size)
    expected = f"data.val_size must be in 3..297 for 300 images of 3 classes, got {val_size:,}."
    assert str(refusal.value) == expected


@pytest.mark.parametrize(
    ("labels", "named"),
    [([0] * 50 + [1] * 50 + [2], "for: c."), ([0] * 50 + [1], "for: b, c."), ([], "for: a, b, c.")],
    ids=["one image", "none", "no data"],
)
def test_classes_with_fewer_than_two_images_are_named(labels, named):
    with pytest.raises(UserError, match="every class needs two or more training images") as refusal:
        fitted(with_labels(labels), val_size=10)
    assert str(refusal.value).endswith(named)


def test_a_class_left_without_training_images_is_named():
    with pytest.raises(UserError, match=r"no training image is left of class b, c: lower data\.val_size \(97\)"):
        fitted(with_labels([0] * 96 + [1, 1, 2, 2]), val_size=97)


def test_label_noise_that_empties_a_class_is_refused():
    """One image of each class is left to train on, and one of these three gets another label."""
    with pytest.raises(UserError, match=r"lower data\.val_size \(3\) or change data\.label_noise \(0\.3\)"):
        fitted(with_labels([0, 0, 1, 1, 2, 2]), val_size=3, label_noise=0.3)


@pytest.mark.parametrize(
    "names",
    [(), ("a",), ("a", "b", "a"), ("a", "macro", "c"), ("a", "b/c", "d")],
    ids=["none", "one", "twice", "macro", "slash"],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_class_names_that_make_no_metric_keys_are_refused(names, stage):
    data = type("Named", (Numbered,), {"class_names": names})()
    with pytest.raises(UserError, match="class_names must be two or more different names") as refusal:
        data.setup(stage)
    assert str(names) in str(refusal.value)
    assert data.loads == 0


@pytest.mark.parametrize("split", ["training", "test"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(images=s.images.float()),
            r"images must be uint8 of shape \(N, 1, 2, 3\), got torch.float",
        ),
        (lambda s: s._replace(images=s.images[:, 0]), r"images must be uint8 .* of shape \(\d+, 2, 3\)"),
        (lambda s: s._replace(labels=s.labels.int()), "labels must be int64 .* got torch.int32"),
        (lambda s: s._replace(labels=s.labels[1:]), "labels must be int64 .* one for each image"),
        (lambda s: s._replace(labels=s.labels + 1), r"labels must be in 0\.\.2, got 1\.\.3"),
    ],
    ids=["dtype", "shape", "label dtype", "label count", "label values"],
)
def test_images_of_another_form_are_refused(split, change, message):
    class Wrong(Numbered):
        def load_train(self) -> LabelledImages:
            return change(super().load_train())

        def load_test(self) -> LabelledImages:
            return change(super().load_test())

    with pytest.raises(UserError, match=f"^{split} {message}"):
        Wrong().setup("test" if split == "test" else "fit")


def test_a_data_set_must_say_how_both_its_parts_are_loaded():
    with pytest.raises(TypeError, match="load_test"):
        type("Half", (ImageDataModule,), {"load_train": Numbered.load_train})()


def test_a_class_that_validation_would_lack_is_refused():
    labels = [0] * 1000 + [1] * 1000 + [2, 2]
    with pytest.raises(UserError, match=r"no validation image is left of class c: raise data\.val_size \(100\)"):
        fitted(with_labels(labels), val_size=100)


def test_label_noise_that_empties_a_class_of_validation_names_the_argument_that_put_it_there():
    """Of three validation images one gets another label; drawn as balanced, they keep theirs."""
    assert by_class(fitted(val_size=3, label_noise=0.3).split("val")) == [1, 1, 1]
    expected = r"no validation image .*: raise data\.val_size \(3\) .*\(0\.3\) or data\.validation \(like_training\)\."
    with pytest.raises(UserError, match=expected):
        fitted(val_size=3, label_noise=0.3, validation="like_training")


def test_another_name_of_a_validation_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match=r"^data\.validation must be balanced or like_training, got 'clean'\.$"):
        Numbered(validation="clean")
