"""LDAM: a larger margin for rarer classes."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class LDAMLoss(PointwiseLoss):
    """l(z, t) = -log softmax(s (z - m_t onehot(t)))_t, with m_c = max_margin (n_min / n_c)^(1/4).

    Label-distribution-aware margins (Cao et al. 2019, arXiv:1906.07413, equations 12 and 13): the label's logit must
    lead by a margin that is largest for the rarest class, so that its decision boundary generalises beyond its few
    images.

    Gradient: dl/dz = s (q - onehot(t)), q = softmax(s (z - m_t onehot(t))): it is large until the label leads by
    its margin. Limits: max_margin = 0 and scale = 1 is cross-entropy; equal frequencies give equal margins.

    Precision and recall: rare classes gain recall and lose some precision.

    The paper's s = 30 is for a last layer with normalised weights and features, whose logits are cosines. losslab's
    networks have ordinary logits, hence the default of 1.

    The loss needs the class frequencies (`set_class_counts`; losslab's models call it before training).

    Args:
        max_margin: the margin of the rarest class, >= 0.
        scale: s > 0.
        kwargs: the arguments of PointwiseLoss.
    """

    max_margin: Tensor
    scale: Tensor

    def __init__(self, max_margin: float = 0.5, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_margin < math.inf:
            raise ValueError(f"max_margin must be >= 0 and finite, got {max_margin}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be > 0 and finite, got {scale}")
        self.add_number("max_margin", max_margin)
        self.add_number("scale", scale)

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        margins = self._margins(logits)[label]
        return self._with_margin(*log_probabilities.per_image(self._scaled(logits), label), margins)

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return self._with_margin(*log_probabilities.per_class(self._scaled(logits)), self._margins(logits))

    def _scaled(self, logits: Tensor) -> Tensor:
        # -inf, of a masked class, times a gradient of 0 would make the derivative in scale NaN.
        return self.scale * logits.clamp_min(log_probabilities.LOWEST_LOG)

    def _margins(self, logits: Tensor) -> Tensor:
        counts = self.required_class_counts(logits.shape[1]).to(logits.dtype)
        return self.max_margin * (counts.min() / counts) ** 0.25

    def _with_margin(self, log_p: Tensor, log_1_minus_p: Tensor, margin: Tensor) -> Tensor:
        # Lowering a class's logit by m lowers its log-odds log p - log(1 - p) by m.
        return -F.logsigmoid(log_p - log_1_minus_p - self.scale * margin)
