"""Logit adjustment: cross-entropy that expects each class as often as it occurs."""

import math

import torch
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.pointwise import PointwiseLoss


class LogitAdjustedLoss(PointwiseLoss):
    """l(z, t) = -log softmax(z + tau log pi)_t, pi the classes' shares of the training images.

    Menon et al. 2021 (arXiv:2007.07314, equation 10). In training a frequent class gets a head start, which the logits
    themselves then need not hold: used without it, they rank classes as if all were equally frequent.

    Gradient: dl/dz = q - onehot(t), q = softmax(z + tau log pi). Limits: tau = 0 is cross-entropy, and so is any tau on
    equally frequent classes; at tau = 1 the minimiser is that of the balanced error (the mean of the classes' error
    rates); tau > 1 favours rare classes beyond that.

    Precision and recall: under imbalance it buys the recall of rare classes with their precision, and does so at the
    optimum, where class weights act on the way there.

    It needs the classes' frequencies (`set_class_counts`; losslab's models give them before training).

    Args:
        tau: >= 0.
        reduction, class_weights, label_smoothing, ignore_index: see PointwiseLoss.
    """

    tau: Tensor

    def __init__(
        self,
        tau: float = 1.0,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction, class_weights, label_smoothing, ignore_index)
        if not 0 <= tau < math.inf:
            raise ValueError(f"tau must be >= 0 and finite, got {tau}")
        self.register_buffer("tau", torch.tensor(float(tau)), persistent=False)

    def extra_repr(self) -> str:
        return f"tau={self.tau.item():g}"

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return -log_probabilities.per_image(self._adjusted(logits), label)[0]

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return -log_probabilities.per_class(self._adjusted(logits))[0]

    def _adjusted(self, logits: Tensor) -> Tensor:
        counts = self.required_class_counts(logits.shape[1]).to(logits.dtype)
        return logits + self.tau * (counts / counts.sum()).log()
