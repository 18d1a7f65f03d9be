"""Focal loss with a gamma for each image, larger where its label is improbable."""

from typing import Any, Literal

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.focal import focal, matching_gamma
from losslab.losses.pointwise import PointwiseLoss


class AdaptiveFocalLoss(PointwiseLoss):
    """l(z, t) = -(1 - p_t)^g log p_t with g = g(p_t) (Mukhoti et al. 2020, arXiv:2002.09437, FLSD).

    rule "flsd_53": g = 5 where p_t < 0.2, else 3, the published schedule FLSD-53.
    rule "lambert_w": g = gamma*(min(p_t, p_0)), the `matching_gamma` that the schedule rounds: where p_t < p_0,
    focal's gradient equals cross-entropy's; from p_0 on it is smaller, that of FocalLoss with gamma*(p_0) (3.07 for
    p_0 = 0.25).

    Gradient: dl/dz = A (p - onehot(t)), FocalLoss's A with g in place of gamma. g is computed from the current p_t and
    detached, as published: no gradient flows through it, so where g changes, the value is not the gradient's integral
    ("flsd_53" jumps at p_t = 0.2).

    Limits: p_t -> 0 has cross-entropy's gradient under "lambert_w" and in the limit under "flsd_53"; p_t -> 1 vanishes
    as FocalLoss does. Compared with a fixed gamma, hard images keep their gradient while easy ones lose confidence: the
    loss is meant for calibration, and changes precision and recall of the most probable class as little as FocalLoss.

    Args:
        rule: "flsd_53" or "lambert_w".
        p_0: in (0, 1/2), for "lambert_w": the probability above which gamma no longer falls.
        kwargs: the arguments of PointwiseLoss.
    """

    p_0: Tensor

    def __init__(self, rule: Literal["flsd_53", "lambert_w"] = "flsd_53", p_0: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rule not in ("flsd_53", "lambert_w"):
            raise ValueError(f"rule must be 'flsd_53' or 'lambert_w', got {rule!r}")
        if not 0 < p_0 < 0.5:
            raise ValueError(f"p_0 must be in (0, 0.5), got {p_0}")
        self.rule = rule
        self.add_number("p_0", p_0)

    def extra_repr(self) -> str:
        return f"rule={self.rule!r}" + (f", p_0={self.p_0.item():g}" if self.rule == "lambert_w" else "")

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return self._focal(*log_probabilities.per_image(logits, label))

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return self._focal(*log_probabilities.per_class(logits))

    def _focal(self, log_p: Tensor, log_1_minus_p: Tensor) -> Tensor:
        return focal(log_p, log_1_minus_p, self._gamma(log_p.detach().exp()))

    def _gamma(self, p: Tensor) -> Tensor:
        if self.rule == "flsd_53":
            return torch.where(p < 0.2, 5.0, 3.0)
        # Smaller p than the square root of the smallest number would overflow; gamma hardly changes the gradient there.
        return matching_gamma(torch.minimum(p, self.p_0).clamp_min(torch.finfo(p.dtype).tiny ** 0.5))
