"""log p and log(1 - p) of softmax, exact where p is near 0 or 1: what the pointwise losses are made of.

With the margin d = z_k - log sum_{j != k} exp z_j one has p_k = sigmoid(d), hence log p_k = logsigmoid(d) and
log(1 - p_k) = logsigmoid(-d): no difference 1 - p_k that rounds to zero, and no log_softmax that does for p_k near 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_LOG = -1e30
"""Stands for log 0, so that a probability of 0 times it is 0."""


def per_image(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log p_t and log(1 - p_t) of each image's label.

    Args:
        logits: (N, C) float32 or float64; a logit of another class may be -inf.
        label: (N,) int64.

    Returns:
        Two tensors (N,), finite for finite logits.
    """
    margin = _margin(logits, label.unsqueeze(1)).squeeze(1)
    return F.logsigmoid(margin), F.logsigmoid(-margin)


def per_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log p_k and log(1 - p_k) of every class: two tensors (N, C), from logits (N, C), of which some may be -inf."""
    top = logits.argmax(dim=1, keepdim=True)
    margin = _margin(logits, top)
    is_top = _is_class(logits, top)
    # Only the largest class can have p > 1/2, where log_softmax and 1 - p lose digits.
    log_p = torch.where(is_top, F.logsigmoid(margin), F.log_softmax(logits, dim=1).clamp_min(LOWEST_LOG))
    p_of_others = log_p.exp().masked_fill(is_top, 0.0)
    return log_p, torch.where(is_top, F.logsigmoid(-margin), torch.log1p(-p_of_others))


def _margin(logits: Tensor, index: Tensor) -> Tensor:
    """z_k - log sum_{j != k} exp z_j for one class k an image: (N, 1), from the classes' indices (N, 1)."""
    # The lowest finite number, not -inf: with all other logits at -inf the margin must not become inf - inf.
    others = logits.masked_fill(_is_class(logits, index), torch.finfo(logits.dtype).min)
    return logits.gather(1, index) - others.logsumexp(dim=1, keepdim=True)


def _is_class(logits: Tensor, index: Tensor) -> Tensor:
    # A comparison, since neither F.one_hot nor scatter works for every transform of torch.func.
    return index == torch.arange(logits.shape[1], device=logits.device)
