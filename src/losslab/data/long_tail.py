"""Exponential long tail: which images of a balanced set remain when classes shall differ in frequency."""

import numpy as np
import torch
from torch import Tensor


def long_tail(labels: Tensor, num_classes: int, imbalance: float, ranks: list[int], seed: int) -> Tensor:
    """Choose the images of a long-tailed subset (Cui et al. 2019, arXiv:1901.05555, section 5.1).

    The class of rank r keeps n_max * imbalance^(r / (C - 1)) images. n_max is what the smallest class has to give,
    so that the subset has the same size for every assignment of ranks to classes.

    Args:
        labels: (N,) int64, every class at least once.
        num_classes: C >= 2.
        imbalance: size of the smallest class over that of the largest, in (0, 1].
        ranks: ranks[c] is the rank of class c: 0 for the largest, C - 1 for the smallest.
        seed: decides which images of a class remain.

    Returns:
        Their indices, ascending, (M,) int64.
    """
    n_max = int(torch.bincount(labels, minlength=num_classes).min())
    generator = np.random.default_rng([seed, 1])
    kept = []
    for label in range(num_classes):
        size = max(1, round(n_max * imbalance ** (ranks[label] / (num_classes - 1))))
        members = np.flatnonzero(labels.numpy() == label)
        kept.append(generator.permutation(members)[:size])
    return torch.from_numpy(np.sort(np.concatenate(kept)))
