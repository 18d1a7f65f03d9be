"""The threshold at which a class should be predicted, if F1 (dice) is what counts."""

from typing import NamedTuple

import torch
from torch import Tensor


class DiceThreshold(NamedTuple):
    """Predict the class where its probability is above `threshold`; the expected F1 is then `dice`."""

    threshold: float
    dice: float


def dice_threshold(probability: Tensor) -> DiceThreshold:
    """The threshold D*/2 on a class's probability that gives the highest expected F1, D*.

    Predicting the n most probable images has the expected dice 2 sum_{i <= n} eta_i / (n + sum_i eta_i), its parts
    replaced by their expectations; D* is its maximum over n, and the images to predict are those with
    eta_i > D*/2 (Lipton et al. 2014, arXiv:1402.1892, theorem 1). Since D* <= 1, the threshold is never above 1/2: F1
    asks for more positives than accuracy does, most of all for classes that are hard to tell. It is also where the
    optimum of DiceLoss switches from p = 0 to p = 1.

    Args:
        probability: eta, (N,) floating in [0, 1], not all 0: one class's calibrated probability for each image, from
            validation, say.

    Raises:
        ValueError: another shape, a value outside [0, 1], or all 0.
    """
    if probability.ndim != 1 or not probability.is_floating_point() or not len(probability):
        raise ValueError(f"probability must be (N,) floating, got {probability.dtype} {tuple(probability.shape)}")
    eta = probability.detach().cpu().double().sort(descending=True).values
    if not bool((eta >= 0).all()) or float(eta[0]) > 1 or float(eta[0]) == 0:
        raise ValueError(f"probability must be in [0, 1] and not all 0, got {float(eta[-1]):g}..{float(eta[0]):g}")
    predicted = torch.arange(1, len(eta) + 1, dtype=torch.float64)
    dice = float((2 * eta.cumsum(0) / (predicted + eta.sum())).max())
    return DiceThreshold(dice / 2, dice)
