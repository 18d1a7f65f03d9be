"""log p and log(1 - p) of softmax, exact where p is near 0 or 1: what the losses are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor


def of_label(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log p_t and log(1 - p_t) of each image's label.

    With the margin d = z_t - log sum_{k != t} exp z_k one has p_t = sigmoid(d), hence log p_t = logsigmoid(d) and
    log(1 - p_t) = logsigmoid(-d): no difference 1 - p_t that rounds to zero.

    Args:
        logits: (N, C) float32 or float64; a logit of another class may be -inf.
        label: (N,) int64.

    Returns:
        Two tensors (N,), finite for finite logits.
    """
    is_label = label.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)
    # The lowest finite number, not -inf: with all other logits at -inf the margin must not become inf - inf.
    others = logits.masked_fill(is_label, torch.finfo(logits.dtype).min).logsumexp(dim=1)
    margin = logits.gather(1, label.unsqueeze(1)).squeeze(1) - others
    return F.logsigmoid(margin), F.logsigmoid(-margin)


def of_every_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log p_k and log(1 - p_k) of every class: two tensors (N, C), from logits (N, C)."""
    log_p = F.log_softmax(logits, dim=1)
    top = logits.argmax(dim=1, keepdim=True)
    is_top = top == torch.arange(logits.shape[1], device=logits.device)
    # 1 - p_k loses digits only where p_k > 1/2, which is the largest class: there, the others' sum.
    others = log_p.masked_fill(is_top, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    return log_p, torch.where(is_top, others, torch.log1p(-log_p.exp().masked_fill(is_top, 0.0)))
