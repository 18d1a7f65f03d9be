"""Generalised cross-entropy: between cross-entropy and the mean absolute error."""

from typing import Any

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class GeneralizedCrossEntropyLoss(PointwiseLoss):
    """l(z, t) = (1 - p_t^q) / q, in [0, 1/q) (Zhang & Sabuncu 2018, arXiv:1805.07836, equation 6).

    Gradient: dl/dz = p_t^q (p - onehot(t)), cross-entropy's times p_t^q: it is small where p_t is small, for images
    with a wrong label, and also for hard and rare ones.

    Limits: q -> 0 is cross-entropy; q = 1 is 1 - p_t, half the mean absolute error, and one minus the dice of the
    whole batch as one set. l -> 1/q with a vanishing gradient as p_t -> 0: hopeless images are ignored.

    Use it under label noise. Precision and recall: under class imbalance rare classes lose recall, and near q = 1
    whole classes may stay unlearned.

    Args:
        q: in (0, 1].
        kwargs: the arguments of PointwiseLoss.
    """

    q: Tensor

    def __init__(self, q: float = 0.7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < q <= 1:
            raise ValueError(f"q must be in (0, 1], got {q}")
        self.add_number("q", q)

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._generalized(log_probabilities.per_image(logits, label)[0])

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return self._generalized(log_probabilities.per_class(logits)[0])

    def _generalized(self, log_p: Tensor) -> Tensor:
        # 1 - p^q loses digits where p^q is near 1; expm1's gradient, expm1 + 1, does where p^q is near 0.
        log_power = self.q * log_p
        return torch.where(log_power > -1, -torch.expm1(log_power), 1 - torch.exp(log_power)) / self.q
