"""A batch of a population has exactly what each member's own data module yields alone."""

import copy
import functools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from operations import Operations
from own_steps import DigitsOfTheSeed
from tiny_digits import TinyDigits
from torch import Tensor

from losslab.data import Augmentation, EvaluationBatches, ImageDataModule
from losslab.losses import LogitAdjustedLoss
from losslab.models import MLP
from losslab.sweep import Population, PopulationData
from losslab.sweep.eligibility import TrainAloneError

Batches = Iterable[tuple[Tensor, Tensor]]

Digits = functools.partial(TinyDigits, batch_size=45, eval_batch_size=20, augmentation=Augmentation())

PLACES = [0, 1, 2, 1]
"""Members and the module of each: the last one shares that of the second."""

KINDS: dict[str, dict[str, Any]] = {
    "own splits": {},
    "no augmentation": {"augmentation": None},
    "a common validation split": {"split_seed": 0},
    "permuted long tails": {"split_seed": 0, "imbalance": 0.3, "permute_ranks": True},
    "label noise": {"split_seed": 0, "label_noise": 0.2},
    "validation like training": {
        "imbalance": 0.5, "permute_ranks": True, "label_noise": 0.2, "validation": "like_training", "val_size": 80,
    },
}  # fmt: skip

COMMON = {
    "a common validation split": ("train", "val"), "permuted long tails": ("val",), "label noise": ("val",),
}  # fmt: skip
"""Splits that are the same for all members, although the order of a training is not."""


def members(datas: list[ImageDataModule]) -> PopulationData:
    data = PopulationData(datas)
    data.setup("fit")
    return data


def assert_same(together: Batches, alone: list[Batches]) -> None:
    """`together` has one batch of all members for each of theirs, bit for bit."""
    steps = 0
    for (images, labels), *own in zip(together, *alone, strict=True):
        assert images.dtype == torch.float32
        assert torch.equal(images, torch.stack([part for part, _ in own]))
        assert torch.equal(labels, torch.stack([part for _, part in own]))
        steps += 1
    assert steps > 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_member_gets_what_its_data_module_yields_alone(kind: str) -> None:
    arguments = [KINDS[kind] | {"seed": seed} for seed in range(3)]
    together, alone = [Digits(**own) for own in arguments], [Digits(**own) for own in arguments]
    for data in alone:
        data.setup("fit")
    data = members([together[place] for place in PLACES])
    assert [own.class_counts.tolist() for own in data.datas] == [alone[p].class_counts.tolist() for p in PLACES]
    loader, loaders = data.train_dataloader(), [alone[place].train_dataloader() for place in PLACES]
    assert len(loader) == len(loaders[0])
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for own in loaders:
            own.sampler.set_epoch(epoch)
        assert_same(loader, loaders)
    for split in ("train", "val"):
        evaluation: Any = data.evaluation_dataloader(split)
        own_evaluation = [alone[place].evaluation_dataloader(split) for place in PLACES]
        assert len(evaluation) == len(own_evaluation[0])
        assert isinstance(evaluation, EvaluationBatches) == (split in COMMON.get(kind, ()))
        if isinstance(evaluation, EvaluationBatches):
            evaluation = [(images.expand(4, *images.shape), labels.expand(4, -1)) for images, labels in evaluation]
        assert_same(evaluation, own_evaluation)


def test_members_may_differ_in_all_that_leaves_their_splits_as_large() -> None:
    arguments: list[dict[str, Any]] = [{"label_noise": 0.1}, {"label_noise": 0.4, "seed": 1}, {"split_seed": 3}]
    together, alone = [Digits(**own) for own in arguments], [Digits(**own) for own in arguments]
    for data in alone:
        data.setup("fit")
    data = members(list(together))
    assert_same(data.train_dataloader(), [own.train_dataloader() for own in alone])
    assert_same(data.val_dataloader(), [own.val_dataloader() for own in alone])


def test_members_of_one_data_module_share_its_batches() -> None:
    one, alone = Digits(seed=1), Digits(seed=1)
    alone.setup("fit")
    data = members([one] * 3)
    for loader, own in (
        (data.train_dataloader(), alone.train_dataloader()),
        (data.val_dataloader(), alone.val_dataloader()),
    ):
        for (images, labels), (own_images, own_labels) in zip(loader, own, strict=True):
            assert torch.equal(images, own_images)
            assert torch.equal(labels, own_labels)


@pytest.mark.parametrize(("augmentation", "expected"), [(None, 4), (Augmentation(), 10)])
@pytest.mark.parametrize("share", [1, 2])
def test_a_batch_takes_as_many_operations_for_16_members_as_for_4(
    augmentation: Augmentation | None, expected: int, share: int
) -> None:
    """As many as for a member alone; where members share a data module, a further one spreads the images to them."""
    counts = []
    for size in (4, 16):
        datas = [Digits(seed=seed, augmentation=augmentation) for seed in range(size // share)] * share
        batches = iter(members(list(datas)).train_dataloader())
        next(batches)
        with Operations() as operations:
            next(batches)
        counts.append(operations.count)
    assert counts == [expected + share - 1] * 2


def test_all_members_share_one_tensor_of_images_on_the_device() -> None:
    """Also of a data module that has loaded them for each member anew."""
    datas = [Digits(seed=seed) for seed in range(3)]
    data = PopulationData(list(datas))
    for device in ("cpu", "meta"):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            strategy=SimpleNamespace(root_device=torch.device(device)), global_rank=0, world_size=1
        )
        data.setup("fit")
        every = [own.evaluation_dataloader(split).split.images for own in datas for split in ("train", "val")]
        assert {images.device.type for images in every} == {device}
        assert len({id(images) for images in every}) == 1


def test_members_of_other_images_or_sizes_share_no_population() -> None:
    common = Digits(split_seed=0)
    other = [DigitsOfTheSeed(batch_size=45, seed=seed) for seed in (0, 1, 0)]
    with pytest.raises(TrainAloneError, match=r"^DigitsOfTheSeed loads other images for another seed$") as error:
        members(list(other))
    assert error.value.rest == [[0, 2]]
    for change, names in (
        ({"val_size": 60}, "the size of train, the size of val"),
        ({"imbalance": 0.5}, "the size of train"),
        ({"batch_size": 30}, "batch_size"),
        ({"augmentation": Augmentation(shift=1)}, "augmentation"),
    ):
        other = [Digits(**{"split_seed": 0} | change | {"seed": seed}) for seed in range(2)]
        with pytest.raises(TrainAloneError, match=f"^{names} of TinyDigits differ between members$") as error:
            members([common, other[0], common, other[1]])
        assert error.value.rest == [[0, 2], [1, 3]]


class ScaledByItsSplit(TinyDigits):
    """Of mean 0 over its own training images."""

    def scale(self, images: Tensor) -> Tensor:
        return images.float() - self.split("train").images.float().mean()


def test_members_that_scale_their_images_by_their_own_splits_share_no_population() -> None:
    datas = [ScaledByItsSplit(seed=seed) for seed in (0, 1, 0)]
    with pytest.raises(TrainAloneError, match=r"^the scale of ScaledByItsSplit differ between members$") as error:
        PopulationData(list(datas)).setup("fit")
    assert error.value.rest == [[0, 2]]
    PopulationData([datas[0], datas[2]]).setup("fit")


def test_members_of_different_splits_tails_and_labels_are_trained_as_if_alone() -> None:
    """The loss takes the class counts of each member's own training images."""

    def build(seed: int) -> MLP:
        torch.manual_seed(seed)
        return MLP((8,), loss=LogitAdjustedLoss(), evaluate_train="every_epoch")

    def fit(model: LightningModule, data: LightningDataModule) -> dict[str, float]:
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", precision="64-true", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(model, data)
        return {key: float(value) for key, value in trainer.callback_metrics.items()}

    own = functools.partial(Digits, **KINDS["validation like training"])
    population = Population([build(seed) for seed in range(3)])
    fit(population, PopulationData([own(seed=seed) for seed in range(3)]))
    for seed, trained in enumerate(population.members):
        alone = build(seed)
        assert population.metrics[seed] == pytest.approx(fit(alone, own(seed=seed)), abs=1e-8)
        for name, weights in alone.named_parameters():
            torch.testing.assert_close(trained.get_parameter(name), weights, rtol=0, atol=1e-8)


def test_a_population_of_data_is_lightnings_data_module_with_the_classes_of_the_first() -> None:
    data = PopulationData([copy.copy(Digits())])
    assert isinstance(data, LightningDataModule)
    assert data.class_names == TinyDigits.class_names
