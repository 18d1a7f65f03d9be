"""Class weights from class frequencies."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class ClassWeighting(ABC):
    """A rule for class weights. A subclass implements `of_counts`: the weight of a class of n training images.

    Weights are scaled so that the training images weigh 1 on average, sum_c n_c w_c = N: the scale of the loss, and so
    the step size, stays as without weights.
    """

    @abstractmethod
    def of_counts(self, counts: Tensor) -> Tensor:
        """Return weights up to a common factor, (C,) float64 > 0, of counts (C,) float64 >= 1."""

    def __call__(self, counts: Tensor) -> Tensor:
        """Return the weights, (C,) float32, of classes with `counts` training images, (C,) int64 >= 1."""
        counts = counts.cpu().double()  # Apple's devices have no float64
        weights = self.of_counts(counts)
        return (weights * (counts.sum() / (counts @ weights))).float()


class InverseFrequency(ClassWeighting):
    """w_c = N / (C n_c): all classes have the same total weight, however rare they are.

    Rare classes gain recall and lose precision.
    """

    def of_counts(self, counts: Tensor) -> Tensor:
        return 1 / counts

    def __repr__(self) -> str:
        return "InverseFrequency()"


class EffectiveNumber(ClassWeighting):
    """w_c ~ (1 - beta) / (1 - beta^n_c), one over the effective number of images (Cui et al. 2019, arXiv:1901.05555).

    Proposition 1 of that paper: the more images a class has, the less another image adds. beta = 0 gives equal weights,
    beta -> 1 inverse frequency. The paper scales the weights to sum to C; the weighted mean of a loss
    is the same.

    Args:
        beta: in [0, 1); the paper tries 0.9, 0.99, 0.999 and 0.9999.
    """

    def __init__(self, beta: float = 0.999) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta}")
        self.beta = beta

    def of_counts(self, counts: Tensor) -> Tensor:
        if self.beta == 0:
            return torch.ones_like(counts)
        # By expm1, since 1 - beta^n loses digits where beta is close to 1.
        return (1 - self.beta) / -torch.expm1(counts * math.log(self.beta))

    def __repr__(self) -> str:
        return f"EffectiveNumber(beta={self.beta:g})"
