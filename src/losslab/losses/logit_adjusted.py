"""Logit adjustment: cross-entropy with logits shifted by the class frequencies."""

import math
from typing import Any

from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class LogitAdjustedLoss(PointwiseLoss):
    """l(z, t) = -log softmax(z + tau log pi)_t, pi the classes' shares of the training images.

    Menon et al. 2021 (arXiv:2007.07314, equation 10). In training the shift favours frequent classes, so that the
    logits need not: without it, at prediction, they rank classes as if all were equally frequent.

    Gradient: dl/dz = q - onehot(t), q = softmax(z + tau log pi). Limits: tau = 0 is cross-entropy, and so is any tau on
    equally frequent classes; at tau = 1 the minimiser is that of the balanced error (the mean of the classes' error
    rates); tau > 1 favours rare classes beyond that.

    Precision and recall: under class imbalance rare classes gain recall and lose precision, also at the optimum;
    class weights act mostly on the way there.

    The loss needs the class frequencies (`set_class_counts`; losslab's models call it before training).

    Args:
        tau: >= 0.
        kwargs: the arguments of PointwiseLoss.
    """

    tau: Tensor

    def __init__(self, tau: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= tau < math.inf:
            raise ValueError(f"tau must be >= 0 and finite, got {tau}")
        self.add_number("tau", tau)

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return -log_probabilities.per_image(self._adjusted(logits), label)[0]

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return -log_probabilities.per_class(self._adjusted(logits))[0]

    def _adjusted(self, logits: Tensor) -> Tensor:
        counts = self.required_class_counts(logits.shape[1]).to(logits.dtype)
        return logits + self.tau * (counts / counts.sum()).log()
