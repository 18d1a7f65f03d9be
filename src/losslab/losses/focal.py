"""Focal loss for softmax classifiers, finite and exact at any logit; its gradient against cross-entropy's."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor

from losslab.losses import log_probabilities
from losslab.losses.pointwise import PointwiseLoss


class FocalLoss(PointwiseLoss):
    """l(z, t) = -(1 - p_t)^gamma log p_t, in [0, inf) (Lin et al. 2017, arXiv:1708.02002, equation 4, for softmax).

    Gradient: dl/dz = A (p - onehot(t)), A = (1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) log p_t: that of
    cross-entropy times A, the `focal_gradient_ratio`. A > 1 for p_t below a p*(gamma) < 1/2 (`focal_crossover`: 0.30
    for gamma = 2) and A < 1 above: at p_t = 0.9 and gamma = 2 it is 0.03.

    Limits: gamma = 0 is cross-entropy, bit for bit; the loss falls with gamma at every p_t; as p_t -> 0 it tends to
    cross-entropy, so hopeless images keep their gradient; as p_t -> 1 it vanishes as (1 - p_t)^(gamma + 1).

    Precision and recall: the factor is the same for all classes and its optimum keeps the order of the classes'
    probabilities, so that precision and recall of the most probable class do not change; confidence falls, and with
    it coverage at a fixed threshold (`focal_to_probability` undoes that). Use it where confidence is too high, or
    where easy images dominate; for rare classes, class weights and LogitAdjustedLoss do more. `make sweep-gamma`
    measures the effect of gamma on a real training.

    Args:
        gamma: >= 0.
        kwargs: the arguments of PointwiseLoss.
    """

    gamma: Tensor

    def __init__(self, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
        self.add_number("gamma", gamma)

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return focal(*log_probabilities.per_image(logits, label), self.gamma)

    def per_class_as_label(self, logits: Tensor) -> Tensor:
        return focal(*log_probabilities.per_class(logits), self.gamma)


def focal(log_p: Tensor, log_1_minus_p: Tensor, gamma: Tensor) -> Tensor:
    """Return -(1 - p)^gamma log p, elementwise, of log p and log(1 - p)."""
    # The power as an exponential: its derivative at 1 - p = 0 is finite for every gamma.
    return -torch.exp(gamma * log_1_minus_p) * log_p


def focal_gradient_ratio(p: Tensor, gamma: float | Tensor) -> Tensor:
    """Return r(p, gamma) = (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p, focal's gradient over cross-entropy's.

    Mukhoti et al. 2020 (arXiv:2002.09437), there called g(p, gamma).

    Args:
        p: probabilities of the label, in (0, 1), any shape.
        gamma: >= 0, a number or a tensor that broadcasts.

    Returns:
        The ratio, in the shape of p: 1 for gamma = 0, and in the limit p -> 0; 0 in the limit p -> 1.

    Raises:
        ValueError: a p is outside (0, 1), or a gamma below 0.
    """
    if not bool(((p > 0) & (p < 1)).all()):
        raise ValueError(f"p must be in (0, 1), got {float(p.min()):g}..{float(p.max()):g}")
    gamma = torch.as_tensor(gamma, dtype=p.dtype, device=p.device)
    if bool((gamma < 0).any()):
        raise ValueError(f"gamma must be >= 0, got {gamma.tolist()}")
    return torch.exp(gamma * torch.log1p(-p)) * (1 - gamma * p * p.log() / (1 - p))


def focal_crossover(gamma: float) -> float:
    """Return p*(gamma), the probability in (0, 1/2) at which focal's gradient equals cross-entropy's.

    Below p* focal's gradient is larger than cross-entropy's, above it smaller. p*(1) = 1/e; p* falls as gamma grows;
    p* -> 1/2 as gamma -> 0.

    Raises:
        ValueError: gamma is not > 0 and finite (for gamma = 0 the gradients agree at every p).
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be > 0 and finite, got {gamma}")

    # log r = gamma log(1 - p) + log(1 + gamma c), c = -p log p / (1 - p); in u = log p, since p* may be tiny.
    def log_ratio(u: float) -> float:
        p = math.exp(u)
        return gamma * math.log1p(-p) + math.log1p(gamma * p * u / math.expm1(u))

    # As p -> 0 the ratio tends to 1 from above; at p = 1/2 it is below 1 for every gamma > 0.
    low = -1.0 - math.log1p(gamma)
    while log_ratio(low) <= 0:
        low *= 2
    return math.exp(brentq(log_ratio, low, math.log(0.5), xtol=1e-14, rtol=1e-14))


def matching_gamma(p: Tensor) -> Tensor:
    """Return gamma*(p), the gamma > 0 at which focal's gradient at p equals cross-entropy's, for p in (0, 1/2).

    gamma* = W_{-1}((b/c) e^{b/c}) / b - 1/c with b = log(1 - p), c = -p log p / (1 - p) and W_{-1} the lower branch of
    Lambert's function (Mukhoti et al. 2020, arXiv:2002.09437, proposition 2). gamma* is the inverse of
    `focal_crossover`, falls with p, and is the smallest gamma whose gradient is nowhere above cross-entropy's from p
    on. It is 4.85 at p = 0.2 and 3.07 at p = 0.25, the "5" and "3" of the published schedule.

    Args:
        p: floating, in (0, 1/2), any shape.

    Returns:
        gamma*, in the shape and dtype of p, relative error 1e-5 in float32 and 1e-12 in float64 for p up to 0.499.
        No gradient flows through it. For p outside (0, 1/2), which is not checked, it has no meaning.
    """
    p = p.detach()
    c = -p * p.log() / (1 - p)
    k = -torch.log1p(-p) / c  # in (0, 1); gamma c solves log(1 + x) = k x, or with s = log(1 + x): k (e^s - 1) = s
    # The start is above the root by W_{-1}'s lower bound (Chatzigeorgiou 2013, arXiv:1601.04895, theorem 1), and
    # k (e^s - 1) - s is convex: Newton's steps fall to the root without overshooting.
    u = (k - 1 - k.log()).clamp_min(0)
    s = torch.log((1 + (2 * u).sqrt() + u) / k)
    for _ in range(6):
        # Numerator and denominator are 0 where p rounds to 1/2.
        s = s - (k * torch.expm1(s) - s) / (k * s.exp() - 1).clamp_min(torch.finfo(p.dtype).tiny)
    return s / k / c


def focal_to_probability(logits: Tensor, gamma: float) -> Tensor:
    """Return psi, the class probabilities that the logits (N, C) of a network trained with FocalLoss(gamma) imply.

    psi_k = (p_k / r(p_k, gamma)) / sum_j (p_j / r(p_j, gamma)), p = softmax(logits), r the ratio of gradients. Focal's
    minimiser is not the classes' true probability eta but the p with eta = psi(p) (Charoenphakdee et al. 2021,
    arXiv:2011.09172, the transformation Psi; it follows from the stationarity of sum_k eta_k l(p, k) on the simplex).
    psi keeps the order of classes, so precision and recall of the most probable class do not change, and undoes the
    lack of confidence.

    Args:
        logits: (N, C) floating, finite.
        gamma: the training's gamma, >= 0; for 0 psi is softmax.

    Returns:
        Probabilities (N, C) in float32 or wider, rows summing to 1.

    Raises:
        ValueError: logits have another shape, or gamma is below 0.
    """
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(f"logits must be floating, (N, C) with C >= 2, got {logits.dtype} {tuple(logits.shape)}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be >= 0 and finite, got {gamma}")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p, log_1_minus_p = log_probabilities.per_class(logits)  # (N, C)
    # log r = gamma log(1 - p) + log(1 + gamma c), c = p (-log p) / (1 - p), whose fraction is 1 in the limit p -> 1.
    lowest = math.log(torch.finfo(logits.dtype).eps)
    fraction = torch.where(log_1_minus_p < lowest, 1, -log_p / log_1_minus_p.clamp_min(lowest).exp())
    log_ratio = gamma * log_1_minus_p + torch.log1p(gamma * log_p.exp() * fraction)
    return F.softmax(log_p - log_ratio, dim=1)
