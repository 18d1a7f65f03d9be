"""Focal loss for softmax classifiers, in a form that stays finite and exact at any logit."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses.loss import ClassWeights, Reduction
from losslab.losses.pointwise import PointwiseLoss


class FocalLoss(PointwiseLoss):
    """l(z, t) = -(1 - p_t)^gamma log p_t, in [0, inf) (Lin et al. 2017, arXiv:1708.02002, equation 4, for softmax).

    gamma = 0 is cross-entropy. A larger one takes gradient from images that are already classified with confidence:
    at p_t = 0.9 and gamma = 2 it is 0.03 times that of cross-entropy, at p_t below about 0.3 it is larger. The factor
    acts on all classes alike, so at the optimum the order of the classes' probabilities, and with it precision and
    recall of the most probable class, stay as they are; confidence falls. What gamma does to a real training is what
    `make sweep-gamma` shows.

    With the margin d = z_t - log sum_{k != t} exp z_k one has p_t = sigmoid(d), hence log p_t = logsigmoid(d) and
    log(1 - p_t) = logsigmoid(-d): no difference 1 - p_t that rounds to zero, no power of zero with an infinite
    derivative.

    Args:
        gamma: >= 0.
        reduction, class_weights, label_smoothing: see PointwiseLoss.
    """

    gamma: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        reduction: Reduction = "mean",
        class_weights: ClassWeights = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, class_weights, label_smoothing)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
        self.register_buffer("gamma", torch.tensor(float(gamma)), persistent=False)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma.item():g}"

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        is_label = label.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)
        # The lowest finite number, not -inf: with all other logits at -inf the margin must not become inf - inf.
        others = logits.masked_fill(is_label, torch.finfo(logits.dtype).min).logsumexp(dim=1)
        margin = logits.gather(1, label.unsqueeze(1)).squeeze(1) - others
        return -torch.exp(self.gamma * F.logsigmoid(-margin)) * F.logsigmoid(margin)

    def of_every_class(self, logits: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1)
        top = logits.argmax(dim=1, keepdim=True)
        is_top = top == torch.arange(logits.shape[1], device=logits.device)
        # 1 - p_k loses digits only where p_k > 1/2, which is the largest class: there, the others' sum.
        others = log_p.masked_fill(is_top, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
        log_1_minus_p = torch.where(is_top, others, torch.log1p(-log_p.exp().masked_fill(is_top, 0.0)))
        return -torch.exp(self.gamma * log_1_minus_p) * log_p
