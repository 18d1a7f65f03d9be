"""The abstract data module: your own data set is a subclass with two methods."""

import hashlib
import os
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL.Image import Image
from torch import Tensor

from losslab.data.augmentation import Augmentation
from losslab.data.batches import EpochOrder, EvaluationBatches, TrainingBatches
from losslab.data.labelled_images import LabelledImages, Split
from losslab.data.pictures import crop_to_fit
from losslab.data.splits import label_noise, long_tail, validation_split
from losslab.errors import UserError, expand_path


class ImageDataModule(LightningDataModule, ABC):
    """Small labelled images, held as one uint8 tensor on the Trainer's device; a split is a list of positions in it.

    A subclass sets `data_name`, `class_names` and `image_shape`, and loads images in `load_train` and `load_test`.
    Everything else is done here, in this order, each step with its own random stream:

    1. The *validation split* is drawn from the training images, stratified by class, by `split_seed` or, without
       one, by `seed`: it is as balanced as the data.
    2. *Long tail* (`imbalance`) and then *label noise* (`label_noise`) change the remaining training images and, with
       validation="like_training", the validation images, by draws of their own. They never change the test images.
    3. Every epoch has its own order of images, and its own numbers to augment them by; both depend on (`seed`, epoch).

    Only `setup("test")` loads the test images.

    Args:
        root: the folder of the image files; None for the subclass's own default. `~` and $VARIABLES are replaced.
        batch_size: images per training step and device; >= 1.
        eval_batch_size: images per evaluation step; >= 1. It affects speed and memory only.
        val_size: images of the validation split; None: `default_val_size` or, without one, a tenth.
        split_seed: determines the validation images, whatever the run's seed; None: they follow `seed`, so that each
            seed of a study has its own split.
        seed: the run's seed: order of the images, augmentation, the images of a long tail, the labels replaced by
            noise. On the command line it is `seed_everything`.
        imbalance: size of the smallest class over that of the largest, in (0, 1], with exponentially falling sizes in
            between; None leaves the classes as they are. The largest class then has as many images as the smallest
            one has in the data.
        permute_ranks: False: class 0 is the largest and the last class the smallest; True: `seed` draws the order.
        label_noise: share of labels replaced by another class, in [0, 1).
        augmentation: random transforms of the training images, or None.
        validation: "balanced": the validation images stay as they were drawn, with their own labels; "like_training":
            they get the long tail, with the same class ranks, and the label noise, too, so that what is chosen on them
            is chosen on images like those of the training. The training images are the same under both.

    Raises:
        UserError: an argument is out of range; from `setup`: a split does not fit the data, or a class is empty.
    """

    data_name: str
    """The data set's name in records and headings."""
    class_names: tuple[str, ...]
    """A unique name for each class, for metric keys and tables."""
    image_shape: tuple[int, int, int]
    """(channels, height, width)"""
    pixel_mean: float = 0.5
    """Mean of the pixels, scaled to [0, 1]; subtracted before the network."""
    pixel_std: float = 0.5
    """Standard deviation of the same pixels, which divides them before the network."""
    default_val_size: int | None = None

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 500,
        val_size: int | None = None,
        split_seed: int | None = None,
        seed: int = 0,
        imbalance: float | None = None,
        permute_ranks: bool = False,
        label_noise: float = 0.0,
        augmentation: Augmentation | None = None,
        validation: Literal["balanced", "like_training"] = "balanced",
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "val_size": val_size}
        for name, number in {**sizes, "split_seed": split_seed, "seed": seed}.items():
            low = 1 if name in sizes else 0
            if number is not None and not low <= number < 2**32:  # the range of scikit-learn's seeds
                raise UserError(f"data.{name} must be {f'>= {low}' if number < low else '< 2^32'}, got {number}.")
        if validation not in ("balanced", "like_training"):
            raise UserError(f"data.validation must be balanced or like_training, got {validation!r}.")
        if imbalance is not None and not 0 < imbalance <= 1:
            raise UserError(f"data.imbalance must be in (0, 1] or null, got {imbalance}.")
        if not 0 <= label_noise < 1:
            raise UserError(f"data.label_noise must be in [0, 1), got {label_noise}.")
        self.root = None if root is None else expand_path(root, "data.root")
        self.batch_size, self.eval_batch_size, self.val_size = batch_size, eval_batch_size, val_size
        self.split_seed, self.seed = seed if split_seed is None else split_seed, seed
        self.imbalance, self.permute_ranks, self.label_noise = imbalance, permute_ranks, label_noise
        self.augmentation, self.validation = augmentation, validation
        self.hashes: dict[str, str] = {}
        """SHA-256 of the loaded images, `train` and `test`, and of `split`: positions, and labels as used."""
        self._splits: dict[str, Split] = {}
        self._batches: TrainingBatches | None = None
        self._position: dict[str, int] = {}

    @abstractmethod
    def load_train(self) -> LabelledImages:
        """Return the images to train and validate on, uint8 (N, *image_shape), with labels (N,) int64 in 0..C-1.

        Of MNIST's own, all data modules of a process share one tensor: change a copy.
        """

    @abstractmethod
    def load_test(self) -> LabelledImages:
        """Return the images to test on, in the same form. Called for a test only."""

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return len(self.class_names)

    @property
    def class_counts(self) -> Tensor:
        """The number of training images per class, by the labels as trained: (C,) int64 on CPU, all >= 1."""
        return torch.bincount(self._splits["train"].labels.cpu(), minlength=self.num_classes)

    @property
    def class_ranks(self) -> list[int]:
        """The rank of each class under `imbalance`: 0 for the largest, C - 1 for the smallest."""
        if not self.permute_ranks:
            return list(range(self.num_classes))
        return [int(rank) for rank in np.random.default_rng([self.seed, 3]).permutation(self.num_classes)]

    def setup(self, stage: str) -> None:
        """Load the splits of a stage ("fit", "validate", "test" or "predict"), once, and move them to the device."""
        self._check_names()
        if stage == "test" and "test" not in self._splits:
            test = self.load_test()
            test.check("test", self.image_shape, self.num_classes)
            self.hashes["test"] = test.fingerprint()
            self._splits["test"] = test.whole()
        if stage != "test" and "train" not in self._splits:
            images = self.load_train()
            images.check("training", self.image_shape, self.num_classes)
            self._split(images)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self._splits = {name: split.to(device) for name, split in self._splits.items()}

    def _check_names(self) -> None:
        names = self.class_names
        if len(names) < 2 or len(set(names)) < len(names) or any(name == "macro" or "/" in name for name in names):
            raise UserError(
                "class_names must be two or more different names, none of them 'macro' or with a '/', "
                f"because metric keys contain them; got {names}."
            )

    def _split(self, images: LabelledImages) -> None:
        labels, names, classes = images.labels, self.class_names, self.num_classes
        val_size = self.val_size or self.default_val_size or len(labels) // 10
        train_index, val_index = validation_split(labels, names, val_size, self.split_seed, self.data_name)
        train_index, train_labels = self._made_harder(labels, train_index)
        val_labels = labels[val_index]
        if self.validation == "like_training":
            val_index, val_labels = self._made_harder(labels, val_index, of_validation=True)
        for part, chosen, remedy in (("training", train_labels, "lower"), ("validation", val_labels, "raise")):
            empty = torch.nonzero(torch.bincount(chosen, minlength=classes) == 0).flatten().tolist()
            if empty:
                drawn = part == "validation" and self.validation == "like_training"
                raise UserError(
                    f"no {part} image is left of class {', '.join(names[c] for c in empty)}: "
                    f"{remedy} data.val_size ({val_size:,}) or change data.label_noise ({self.label_noise})"
                    f"{' or data.validation (like_training)' if drawn else ''}."
                )
        split = hashlib.sha256(train_index.numpy().data)
        split.update(train_labels.numpy().data)
        split.update(val_index.numpy().data)
        if not torch.equal(val_labels, labels[val_index]):  # else `train` and the positions say them
            split.update(val_labels.numpy().data)
        self.hashes |= {"train": images.fingerprint(), "split": split.hexdigest()}
        self._splits["train"] = Split(images.images, train_index, train_labels)
        self._splits["val"] = Split(images.images, val_index, val_labels)

    def _made_harder(self, labels: Tensor, index: Tensor, of_validation: bool = False) -> tuple[Tensor, Tensor]:
        """Return what long tail and label noise make of the images at `index`: positions (M,), and labels (M,)."""
        classes, seed = self.num_classes, self.seed
        if self.imbalance is not None:
            ranks = self.class_ranks
            index = index[long_tail(labels[index], classes, self.imbalance, ranks, seed, of_validation)]
        if not self.label_noise:
            return index, labels[index]
        return index, label_noise(labels[index], classes, self.label_noise, seed, of_validation)

    def split(self, name: str) -> LabelledImages:
        """Return a copy of the split of this name ("train", "val" or "test"), on the device, once `setup` has it."""
        return self._splits[name].gathered()

    def share_images(self, other: "ImageDataModule") -> None:
        """Take the images of the splits from another data module that has loaded the same ones."""
        for name in ("train", "val"):
            self._splits[name] = self._splits[name]._replace(images=other._splits[name].images)

    def train_dataloader(self) -> TrainingBatches:
        """Return shuffled, augmented batches of the training split; with several processes, this rank's share."""
        train = self._splits["train"]
        rank, world_size = self._rank_and_world_size()
        fixed = getattr(self.trainer, "overfit_batches", 0) > 0
        order = EpochOrder(len(train.labels), self.seed, rank, world_size, fixed)
        if not len(order):
            raise UserError(f"{len(train.labels)} training images are too few for {world_size} processes.")
        background = self.augmentation.background if self.augmentation else 0
        outside = (background / 255 - self.pixel_mean) / self.pixel_std
        self._batches = TrainingBatches(train, self.batch_size, self.scale, order, self.augmentation, outside)
        self._batches.load_state_dict(self._position)
        return self._batches

    def from_picture(self, picture: Image) -> Tensor:
        """Return a picture as uint8 (*image_shape): scaled until it just covers the shape, cut around its middle.

        A data set whose images were prepared in another way overrides this, as MNIST does.

        Raises:
            ValueError: the picture cannot be used.
        """
        return crop_to_fit(picture, self.image_shape)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, for a checkpoint."""
        # Lightning saves the loader's own state, too, but restores it only if no schedule has counted its batches.
        return self._batches.state_dict() if self._batches is not None else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next training loader start at a saved position."""
        self._position = state_dict

    def evaluation_dataloader(self, split: str) -> EvaluationBatches:
        """Return a split ("train", "val" or "test") in its own order, not augmented: each image once over all ranks."""
        rank, world_size = self._rank_and_world_size()
        share = self._splits[split].take(slice(rank, None, world_size))
        return EvaluationBatches(share, self.eval_batch_size, self.scale)

    def val_dataloader(self) -> EvaluationBatches:
        """Return the validation split."""
        return self.evaluation_dataloader("val")

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test split."""
        return self.evaluation_dataloader("test")

    def predict_dataloader(self) -> EvaluationBatches:
        """Return the validation split: a prediction must not read the test images."""
        return self.evaluation_dataloader("val")

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def scale(self, images: Tensor) -> Tensor:
        """Return the network's input for uint8 pixels: float32, with mean 0 and standard deviation 1, roughly."""
        return images.float().sub_(255 * self.pixel_mean).div_(255 * self.pixel_std)
