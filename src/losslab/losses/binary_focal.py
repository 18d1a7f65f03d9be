"""Focal loss for one-vs-rest classifiers: one sigmoid per logit."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses.focal import focal
from losslab.losses.log_probabilities import LOWEST_LOG
from losslab.losses.pointwise import PointwiseLoss


class BinaryFocalLoss(PointwiseLoss):
    """l(z, t) = a f(z_t) + (1 - a) sum_{k != t} f(-z_k), f(x) = -(1 - s(x))^gamma log s(x), s the sigmoid, a = alpha.

    C questions "this class or another?", each a binary focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5, with
    alpha for the positive and 1 - alpha for the negative side), summed over the classes.

    Gradient: dl/dz_t = -a A(s(z_t)) s(-z_t) and dl/dz_k = (1 - a) A(s(-z_k)) s(z_k) for k != t, with FocalLoss's A.
    Limits: gamma = 0 without alpha is the sum over classes of torch's binary cross-entropy. For two logits -x and x
    and alpha = 0.5 the loss is FocalLoss of the logits 0 and x.

    Precision and recall: alpha trades one for the other. Above 0.5 a missed positive costs more: more recall, less
    precision, in every class; gamma acts on both sides alike. At initialisation C - 1 negatives outweigh one positive:
    with many classes, start the last layer's bias below 0. Probabilities are s(z), not softmax(z); the most probable
    class is the same.

    Args:
        gamma: >= 0.
        alpha: in [0, 1]; None gives both sides the weight 1.
        kwargs: the arguments of PointwiseLoss. A class weight multiplies the whole loss of the images of that class.
    """

    gamma: Tensor
    positive_weight: Tensor
    negative_weight: Tensor

    def __init__(self, gamma: float = 2.0, alpha: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1] or None, got {alpha}")
        positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        self.add_number("gamma", gamma)
        self.register_buffer("positive_weight", torch.tensor(float(positive)), persistent=False)
        self.register_buffer("negative_weight", torch.tensor(float(negative)), persistent=False)

    @property
    def alpha(self) -> float | None:
        """The weight of the positive side; None where both sides have the weight 1."""
        positive, negative = self.positive_weight.item(), self.negative_weight.item()
        return None if positive == negative == 1 else positive

    def extra_repr(self) -> str:
        weights = f"{self.positive_weight.item():g}:{self.negative_weight.item():g}"
        return f"gamma={self.gamma.item():g}, positive:negative={weights}"

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        is_label = label.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)  # (N, C)
        weight = torch.where(is_label, self.positive_weight, self.negative_weight)
        return (weight * self._one_side(torch.where(is_label, logits, -logits))).sum(dim=1)

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        negative = self.negative_weight * self._one_side(-logits)
        # (N, C) sums over the classes before and after each class: subtracting from the sum of all would lose digits.
        before = F.pad(negative, (1, -1)).cumsum(dim=1)
        after = F.pad(negative, (-1, 1)).flip(1).cumsum(dim=1).flip(1)
        return self.positive_weight * self._one_side(logits) + before + after

    def _one_side(self, logits: Tensor) -> Tensor:
        # A logit of -inf masks a class; clamped, so that no product with 0 is NaN.
        logits = logits.clamp(LOWEST_LOG, -LOWEST_LOG)
        return focal(F.logsigmoid(logits), F.logsigmoid(-logits), self.gamma)
