"""Which training image goes where, with which label: validation split, long tail, label noise."""

import numpy as np
import torch
from torch import Tensor

from losslab.errors import UserError


def validation_split(
    labels: Tensor, class_names: tuple[str, ...], val_size: int, seed: int, data_name: str
) -> tuple[Tensor, Tensor]:
    """Draw `val_size` validation images, stratified by class.

    The draw is that of scikit-learn's train_test_split, number for number, so that splits recorded by earlier versions
    stay the same, without its import, a quarter of a second.

    Args:
        labels: (N,) int64 in 0..C-1.
        class_names: C names, for the messages.
        val_size: in C..N-C.
        seed: determines which images are drawn.
        data_name: for the messages.

    Returns:
        Positions of the training and the validation images, (N - val_size,) and (val_size,) int64, ascending.

    Raises:
        UserError: a class has fewer than two images, or `val_size` is out of range.
    """
    total, classes = len(labels), len(class_names)
    counts = torch.bincount(labels, minlength=classes)
    if counts.min() < 2:
        few = ", ".join(class_names[c] for c in torch.nonzero(counts < 2).flatten().tolist())
        raise UserError(
            f"every class needs two or more training images, one to train and one to validate on; "
            f"of {data_name}'s {total:,} images there are fewer for: {few}."
        )
    if not classes <= val_size <= total - classes:
        raise UserError(
            f"data.val_size must be in {classes}..{total - classes:,} for {total:,} images of {classes} classes, "
            f"got {val_size:,}."
        )
    generator = np.random.RandomState(seed)
    of_class = counts.numpy()
    in_train = _approximate_mode(of_class, total - val_size, generator)
    _approximate_mode(of_class - in_train, val_size, generator)  # the rest, but it may draw random numbers
    is_val = np.ones(total, dtype=bool)
    by_class = np.split(np.argsort(labels.numpy(), kind="stable"), np.cumsum(of_class)[:-1])
    for members, size in zip(by_class, in_train, strict=True):
        is_val[members[generator.permutation(len(members))[:size]]] = False
    return torch.from_numpy(np.flatnonzero(~is_val)), torch.from_numpy(np.flatnonzero(is_val))


def _approximate_mode(class_counts: np.ndarray, draws: int, generator: np.random.RandomState) -> np.ndarray:
    """Return how many of `draws` images come from each class, (C,): the shares rounded down, the largest rests up.

    As sklearn.utils.extmath has it (BSD-3-Clause), with ties drawn from the generator.
    """
    exact = class_counts / class_counts.sum() * draws
    rounded = np.floor(exact)
    rest = exact - rounded
    missing = int(draws - rounded.sum())
    for value in np.unique(rest)[::-1] if missing > 0 else []:
        tied = np.flatnonzero(rest == value)
        up = generator.choice(tied, size=min(len(tied), missing), replace=False)
        rounded[up] += 1
        missing -= len(up)
        if missing == 0:
            break
    return rounded.astype(int)


def long_tail(
    labels: Tensor, num_classes: int, imbalance: float, ranks: list[int], seed: int, of_validation: bool = False
) -> Tensor:
    """Draw a long-tailed subset (Cui et al. 2019, arXiv:1901.05555, section 5.1).

    The class of rank r keeps n_max * imbalance^(r / (C - 1)) images. n_max is the size of the smallest class, so that
    the subset has the same size however ranks are assigned to classes.

    Args:
        labels: (N,) int64, every class at least once.
        num_classes: C >= 2.
        imbalance: size of the smallest class over that of the largest, in (0, 1].
        ranks: ranks[c] is the rank of class c: 0 for the largest, C - 1 for the smallest.
        seed: determines which images of a class remain.
        of_validation: draws independently of the same seed's training images.

    Returns:
        The M positions, ascending, (M,) int64.
    """
    n_max = int(torch.bincount(labels, minlength=num_classes).min())
    generator = np.random.default_rng([seed, 4 if of_validation else 1])
    kept = []
    for label in range(num_classes):
        size = max(1, round(n_max * imbalance ** (ranks[label] / (num_classes - 1))))
        members = np.flatnonzero(labels.numpy() == label)
        kept.append(generator.permutation(members)[:size])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def label_noise(labels: Tensor, num_classes: int, fraction: float, seed: int, of_validation: bool = False) -> Tensor:
    """Replace round(fraction * N) labels, drawn without replacement, by another class, drawn uniformly.

    Args:
        labels: (N,) int64 in 0..C-1; not modified.
        num_classes: C >= 2.
        fraction: share of labels to replace, in [0, 1).
        seed: determines the images and their new labels.
        of_validation: draws independently of the same seed's training images.

    Returns:
        The labels to use, (N,) int64.
    """
    generator = np.random.default_rng([seed, 5 if of_validation else 2])
    noisy = labels.clone()
    wrong = torch.from_numpy(generator.permutation(len(labels))[: round(fraction * len(labels))])
    step = torch.from_numpy(generator.integers(1, num_classes, size=len(wrong)))
    noisy[wrong] = (labels[wrong] + step) % num_classes
    return noisy
