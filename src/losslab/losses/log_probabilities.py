"""log p and log(1 - p) of softmax, exact where p is near 0 or 1: the pointwise losses are computed from them.

With the margin d = z_k - log sum_{j != k} exp z_j, p_k = sigmoid(d), so log p_k = logsigmoid(d) and
log(1 - p_k) = logsigmoid(-d). The difference 1 - p_k, and log_softmax where p_k is near 1, would round to zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_LOG = -1e30
"""Stands for log 0, so that a probability of 0 times it is 0."""


def per_image(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p_t and log(1 - p_t) of each image's label.

    Args:
        logits: (N, C) float32 or float64; a logit of another class may be -inf.
        label: (N,) int64.

    Returns:
        Two tensors (N,), finite if the logits are.
    """
    margin = _margin(logits, label.unsqueeze(1)).squeeze(1)  # (N,)
    return F.logsigmoid(margin), F.logsigmoid(-margin)


def per_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p_k and log(1 - p_k) of every class, two tensors (N, C), of logits (N, C); some may be -inf."""
    top = logits.argmax(dim=1, keepdim=True)  # (N, 1)
    margin = _margin(logits, top)
    is_top = _is_class(logits, top)
    # Only the largest class can have p > 1/2, where log_softmax and 1 - p lose digits.
    log_p = torch.where(is_top, F.logsigmoid(margin), F.log_softmax(logits, dim=1).clamp_min(LOWEST_LOG))
    p_of_others = log_p.exp().masked_fill(is_top, 0.0)
    return log_p, torch.where(is_top, F.logsigmoid(-margin), torch.log1p(-p_of_others))


def _margin(logits: Tensor, index: Tensor) -> Tensor:
    """Return z_k - log sum_{j != k} exp z_j, (N, 1), for one class k per image, whose index is (N, 1)."""
    # The lowest finite number: with -inf, and all other logits at -inf too, the margin would be inf - inf.
    others = logits.masked_fill(_is_class(logits, index), torch.finfo(logits.dtype).min)
    return logits.gather(1, index) - others.logsumexp(dim=1, keepdim=True)


def _is_class(logits: Tensor, index: Tensor) -> Tensor:
    # A comparison, since neither F.one_hot nor scatter works for every transform of torch.func.
    return index == torch.arange(logits.shape[1], device=logits.device)
