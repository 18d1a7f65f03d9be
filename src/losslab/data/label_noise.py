"""Symmetric label noise: some training labels become another class, any other with equal chance."""

import numpy as np
import torch
from torch import Tensor


def label_noise(labels: Tensor, num_classes: int, fraction: float, seed: int) -> Tensor:
    """Give exactly round(fraction * N) labels, drawn without replacement, a different class drawn uniformly.

    Args:
        labels: (N,) int64 in 0..C-1; not changed.
        num_classes: C >= 2.
        fraction: share of labels made wrong, in [0, 1).
        seed: decides which, and what they become.

    Returns:
        The labels to train on, (N,) int64.
    """
    generator = np.random.default_rng([seed, 2])
    noisy = labels.clone()
    wrong = torch.from_numpy(generator.permutation(len(labels))[: round(fraction * len(labels))])
    step = torch.from_numpy(generator.integers(1, num_classes, size=len(wrong)))
    noisy[wrong] = (labels[wrong] + step) % num_classes
    return noisy
