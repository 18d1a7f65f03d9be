"""psi: from the confidence of a network trained by focal loss back to probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losslab.losses import log_probabilities


def focal_to_probability(logits: Tensor, gamma: float) -> Tensor:
    """psi: the probabilities that a network trained by FocalLoss(gamma) stands for, from its logits (N, C).

    psi_k = (p_k / r(p_k, gamma)) / sum_j (p_j / r(p_j, gamma)), p = softmax(logits), r the ratio of gradients. Focal's
    minimiser is not the classes' true probability eta but the p with eta = psi(p) (Charoenphakdee et al. 2021,
    arXiv:2011.09172, the transformation Psi; it
    follows from the stationarity of sum_k eta_k l(p, k) on the simplex). psi keeps the order of
    classes, so precision and recall of the most probable class stay as they are, and undoes the lack of confidence.

    Args:
        logits: (N, C) floating, finite.
        gamma: that of the training, >= 0; 0 is softmax.

    Returns:
        Probabilities (N, C) in float32 or wider, rows summing to 1.

    Raises:
        ValueError: logits of another shape, or a gamma below 0.
    """
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(f"logits must be floating, (N, C) with C >= 2, got {logits.dtype} {tuple(logits.shape)}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p, log_1_minus_p = log_probabilities.of_every_class(logits)
    # log r = gamma log(1 - p) + log(1 + gamma c), c = p (-log p) / (1 - p), whose fraction is 1 in the limit p -> 1.
    lowest = math.log(torch.finfo(logits.dtype).eps)
    fraction = torch.where(log_1_minus_p < lowest, 1, -log_p / log_1_minus_p.clamp_min(lowest).exp())
    log_ratio = gamma * log_1_minus_p + torch.log1p(gamma * log_p.exp() * fraction)
    return F.softmax(log_p - log_ratio, dim=1)
