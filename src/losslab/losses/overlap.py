"""Losses that compare each class's predicted and true set over the batch; the threshold with the best F1."""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses.loss import Loss


class OverlapLoss(Loss):
    """Mean over the classes in the batch of a ratio, misses over size, in [0, 1]; 0 for perfect predictions.

    A subclass implements the ratio, `misses_and_size`. The loss is one of the batch as a whole: it depends on the
    batch's classes and size and, with several processes, on each rank's own batch. A class without an image in the
    batch (no target above 0) is left out.

    Args:
        reduction: "mean", over the classes in the batch, weighted by class_weights, and 0 if there is none or their
            weights sum to 0; "sum", over the same; "none", one value per class, (C,), 0 for classes not in the batch.
            There is no value per image.
        class_weights, ignore_index: see Loss.
    """

    @abstractmethod
    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        """Return numerator and denominator of each class's loss, two tensors (C,).

        Args:
            tp: p_ic y_ic, the true positive share of image i in class c, (N, C).
            fp: p_ic (1 - y_ic), false positive, (N, C).
            fn: (1 - p_ic) y_ic, false negative, (N, C).
        """

    def compute(self, logits: Tensor, target: Tensor, kept: Tensor | None) -> Tensor:
        p = logits.softmax(dim=1)  # (N, C)
        if kept is not None:
            p = p * kept.unsqueeze(1)
        if target.ndim == 1:
            is_label = target.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)  # (N, C)
            is_label = is_label if kept is None else is_label & kept.unsqueeze(1)
            images, shares = is_label.sum(dim=0), _shares_of_labels(p, is_label)
        else:
            images, shares = target.sum(dim=0), _shares_of_probabilities(p, target)
        misses, size = self.misses_and_size(*shares)  # (C,), as all below
        present = images > 0
        weight = present.to(p.dtype) if self.class_weights is None else present * self.class_weights.to(p.dtype)
        # The size is 0, or too small to divide by twice, for absent classes, and where nothing is predicted and only
        # false positives count. There 0/0 would make the gradient NaN although it is masked. NaN logits stay NaN.
        counts = present & ~(size <= torch.finfo(p.dtype).tiny ** 0.5)
        loss = torch.where(counts, misses / torch.where(counts, size, 1), 0) * weight
        if self.reduction == "none":
            return loss
        total = weight.sum()
        return loss.sum() if self.reduction == "sum" else loss.sum() / torch.where(total > 0, total, 1)


class DiceLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - D_c, in [0, 1] (Milletari et al. 2016, arXiv:1606.04797, section 3).

    D_c = 2 I_c / S_c, I_c = sum_i p_ic y_ic, S_c = sum_i p_ic^r + sum_i y_ic^r, sums over the images i of the batch;
    r = 1, or the paper's r = 2 if squared. Computed as 1 - D_c = sum_i |p_ic - y_ic|^r / S_c for hard labels, so that
    nothing cancels near a perfect prediction. OverlapLoss explains how the loss depends on the batch.

    Gradient: dl/dp_ic = -(2 y_ic - D_c) / (m S_c) for r = 1 and -2 (y_ic - D_c p_ic) / (m S_c) for r = 2, with m
    classes in the batch. Averaged over labels its sign for r = 1 is that of D_c - 2 P(c | x): at the optimum
    everything with P(c | x) > D_c / 2 is predicted with p = 1 (`dice_threshold`). So one-vs-rest dice
    predicts at least as many positives as cross-entropy: recall up, precision down, most for hard and rare classes.

    Limits: the logits' gradient carries the factor p_t. Near a random start it is about C times smaller than that of
    cross-entropy, and it vanishes for confident mistakes, at p_t -> 0 as 2 p_t. Use Adam or a higher learning rate,
    or add cross-entropy (CompoundLoss). Use it where F1 or overlap is the measure and probabilities are
    not needed.

    Args:
        squared: use squares in the denominator (r = 2).
        kwargs: the arguments of OverlapLoss.
    """

    def __init__(self, squared: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.squared = squared

    def extra_repr(self) -> str:
        return f"squared={self.squared}"

    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        # fp - fn = p - y, and p^2 + y^2 = (p - y)^2 + 2 p y. torch's squared error needs one (N, C) matrix less.
        misses = F.mse_loss(fp, fn, reduction="none").sum(dim=0) if self.squared else fp.sum(dim=0) + fn.sum(dim=0)
        return misses, misses + 2 * tp.sum(dim=0)


class TverskyLoss(OverlapLoss):
    """Mean over the classes in the batch of 1 - TP / (TP + alpha FP + beta FN) (Salehi et al. 2017, arXiv:1706.05721).

    Equations 2 and 3 of that paper, with TP = sum_i p_ic y_ic, FP = sum_i p_ic (1 - y_ic), FN = sum_i (1 - p_ic) y_ic
    over the images i of the batch. It trades precision for recall directly: a larger alpha penalises false positives
    (more precision), a larger beta false negatives (more recall).

    Gradient, with T = TP / S, S = TP + alpha FP + beta FN and m classes in the batch:
    dl/dp_ic = -(y_ic - T (alpha + (1 - alpha - beta) y_ic)) / (m S).

    Limits: alpha = beta = 0.5 is dice, alpha = beta = 1 the soft Jaccard index; (1, 0) is one minus the soft precision,
    whose minimum may predict almost nothing, and (0, 1) one minus the soft recall, whose minimum may predict anything:
    keep both above 0. Like dice, it has almost no gradient for confident mistakes.

    Args:
        alpha: weight of false positives, >= 0.
        beta: weight of false negatives, >= 0; not both 0.
        kwargs: the arguments of OverlapLoss.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, alpha: float = 0.5, beta: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= alpha < math.inf or not 0 <= beta < math.inf or alpha + beta == 0:
            raise ValueError(f"alpha and beta must be >= 0, finite and not both 0, got {alpha} and {beta}")
        self.add_number("alpha", alpha)
        self.add_number("beta", beta)

    def misses_and_size(self, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        misses = self.alpha * fp.sum(dim=0) + self.beta * fn.sum(dim=0)
        return misses, misses + tp.sum(dim=0)


class DiceThreshold(NamedTuple):
    """A threshold on a class's probability, and the expected F1, `dice`, of predicting the class above it."""

    threshold: float
    dice: float


def dice_threshold(probability: Tensor) -> DiceThreshold:
    """Return the threshold D*/2 on a class's probability that has the highest expected F1, D*.

    Predicting the n most probable images has the expected dice 2 sum_{i <= n} eta_i / (n + sum_i eta_i), its parts
    replaced by their expectations; D* is its maximum over n, reached by predicting the images with
    eta_i > D*/2 (Lipton et al. 2014, arXiv:1402.1892, theorem 1). Since D* <= 1, the threshold is never above 1/2: F1
    needs more positives than accuracy does, most of all for classes that are hard to recognise. At the same threshold
    the optimum of DiceLoss switches from p = 0 to p = 1.

    Args:
        probability: eta, (N,) floating in [0, 1], not all 0: the class's calibrated probability for each image, for
            example of the validation split.

    Raises:
        ValueError: probability has another shape, a value outside [0, 1], or is all 0.
    """
    if probability.ndim != 1 or not probability.is_floating_point() or not len(probability):
        raise ValueError(f"probability must be (N,) floating, got {probability.dtype} {tuple(probability.shape)}")
    eta = probability.detach().cpu().double().sort(descending=True).values
    if not bool((eta >= 0).all()) or float(eta[0]) > 1 or float(eta[0]) == 0:
        raise ValueError(f"probability must be in [0, 1] and not all 0, got {float(eta[-1]):g}..{float(eta[0]):g}")
    predicted = torch.arange(1, len(eta) + 1, dtype=torch.float64)
    dice = float((2 * eta.cumsum(0) / (predicted + eta.sum())).max())
    return DiceThreshold(dice / 2, dice)


# Both return tp, fp, fn, (N, C). Where p may round to 1, 1 - p is computed as the sum of the other classes' p.


def _shares_of_labels(p: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fp = torch.where(is_label, 0, p)
    return torch.where(is_label, p, 0), fp, torch.where(is_label, fp.sum(dim=1, keepdim=True), 0)


def _shares_of_probabilities(p: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    is_top = p.argmax(dim=1, keepdim=True) == torch.arange(p.shape[1], device=p.device)
    not_p = torch.where(is_top, p.masked_fill(is_top, 0).sum(dim=1, keepdim=True), 1 - p)
    return p * target, p * (1 - target), not_p * target
