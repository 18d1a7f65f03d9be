"""Against 60 digits: float32 in and out is exact to 1e-5; against float64, so are gradients.

Truths below 1e-30 are left out: a power (1 - p)^gamma has an exponent above 69 there, whose own rounding is 1e-5.
Each reference is the formula of the paper or of the docstring, written down again in mpmath.
"""

import functools
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F
from loss_examples import COUNTS, Example
from torch import Tensor, nn
from torch.func import vmap

from losslab.losses import (
    AdaptiveFocalLoss,
    BinaryFocalLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PointwiseLoss,
    PolyLoss,
    TverskyLoss,
)

MARGINS = torch.arange(-30, 30.5, 0.5)
HALVES = (torch.float16, torch.bfloat16)
SMALLEST = 1e-30

mpf = mpmath.mpf


@functools.cache
def softmax(logits: tuple[float, ...]) -> tuple[mpf, ...]:
    powers = [mpmath.exp(z) for z in logits]
    return tuple(power / mpmath.fsum(powers) for power in powers)


@functools.cache
def sigmoid(z: float) -> mpf:
    return 1 / (1 + mpmath.exp(-mpf(z)))


@functools.cache
def log(p: mpf) -> mpf:
    return mpmath.log(p)


def focal(p: mpf, gamma: float) -> mpf:
    return -((1 - p) ** mpf(gamma)) * log(p)


def adaptive_gamma(p: mpf, loss: AdaptiveFocalLoss) -> mpf:
    """Mukhoti et al.: section 5's schedule, and proposition 2."""
    if loss.rule == "flsd_53":
        return mpf(5) if p < 0.2 else mpf(3)
    p = min(p, mpf(loss.p_0.item()))
    b, c = mpmath.log(1 - p), -p * mpmath.log(p) / (1 - p)
    return mpmath.lambertw(b / c * mpmath.exp(b / c), -1).real / b - 1 / c


def binary_focal(z: tuple[float, ...], t: int, loss: BinaryFocalLoss) -> mpf:
    gamma, positive, negative = (b.item() for b in (loss.gamma, loss.positive_weight, loss.negative_weight))
    others = [focal(sigmoid(-z_k), gamma) for k, z_k in enumerate(z) if k != t]
    return positive * focal(sigmoid(z[t]), gamma) + negative * mpmath.fsum(others)


def logit_adjusted(z: tuple[float, ...], t: int, loss: LogitAdjustedLoss) -> mpf:
    """Menon et al., equation 10 in its first form: log(1 + sum_{k != t} (pi_k / pi_t)^tau e^(z_k - z_t))."""
    n = COUNTS.tolist()
    return mpmath.log1p(
        mpmath.fsum(
            (mpf(n[k]) / n[t]) ** mpf(loss.tau.item()) * mpmath.exp(mpf(z_k) - z[t])
            for k, z_k in enumerate(z)
            if k != t
        )
    )


def ldam(z: tuple[float, ...], t: int, loss: LDAMLoss) -> mpf:
    n = COUNTS[: len(z)].tolist()
    s, margin = mpf(loss.scale.item()), mpf(loss.max_margin.item()) * (mpf(min(n)) / n[t]) ** mpf(0.25)
    others = (mpmath.exp(s * (mpf(z_k) - z[t] + margin)) for k, z_k in enumerate(z) if k != t)
    return mpmath.log1p(mpmath.fsum(others))


OF_LABEL: dict[type[nn.Module], Callable[[tuple[float, ...], int, Any], mpf]] = {
    AdaptiveFocalLoss: lambda z, t, loss: focal(softmax(z)[t], adaptive_gamma(softmax(z)[t], loss)),
    BinaryFocalLoss: binary_focal,
    CrossEntropyLoss: lambda z, t, loss: -mpmath.log(softmax(z)[t]),
    FocalLoss: lambda z, t, loss: focal(softmax(z)[t], loss.gamma.item()),
    GeneralizedCrossEntropyLoss: lambda z, t, loss: (1 - softmax(z)[t] ** mpf(loss.q.item())) / mpf(loss.q.item()),
    LDAMLoss: ldam,
    LogitAdjustedLoss: logit_adjusted,
    PolyLoss: lambda z, t, loss: -mpmath.log(softmax(z)[t]) + mpf(loss.epsilon.item()) * (1 - softmax(z)[t]),
}

Rows = list[tuple[mpf, ...]]


def dice(p: Rows, y: Rows, loss: DiceLoss) -> mpf:
    r = 2 if loss.squared else 1

    def of_class(c: int) -> mpf:
        overlap = mpmath.fsum(p_i[c] * y_i[c] for p_i, y_i in zip(p, y, strict=True))
        return 1 - 2 * overlap / mpmath.fsum(row[c] ** r for row in (*p, *y))

    return mean_over_present(y, of_class)


def tversky(p: Rows, y: Rows, loss: TverskyLoss) -> mpf:
    def of_class(c: int) -> mpf:
        tp, fp, fn = (
            mpmath.fsum(f(p_i[c], y_i[c]) for p_i, y_i in zip(p, y, strict=True))
            for f in (lambda p, y: p * y, lambda p, y: p * (1 - y), lambda p, y: (1 - p) * y)
        )
        return 1 - tp / (tp + mpf(loss.alpha.item()) * fp + mpf(loss.beta.item()) * fn)

    return mean_over_present(y, of_class)


def mean_over_present(y: Rows, of_class: Callable[[int], mpf]) -> mpf:
    present = [c for c in range(len(y[0])) if any(row[c] > 0 for row in y)]
    return mpmath.fsum(map(of_class, present)) / len(present)


def cross_entropy_and_dice(p: Rows, y: Rows, loss: CompoundLoss) -> mpf:
    images = (-sum(y_k * mpmath.log(p_k) for p_k, y_k in zip(*rows, strict=True)) for rows in zip(p, y, strict=True))
    first, second = (mpf(weight) for weight in loss.weights.tolist())
    return first * mpmath.fsum(images) / len(p) + second * dice(p, y, loss.losses[1])


OF_BATCH: dict[type[nn.Module], Callable[[Rows, Rows, Any], mpf]] = {
    CompoundLoss: cross_entropy_and_dice,
    DiceLoss: dice,
    TverskyLoss: tversky,
}


def test_every_loss_has_a_reference(loss_class: Example) -> None:
    references = OF_LABEL if issubclass(loss_class.loss_class, PointwiseLoss) else OF_BATCH
    assert not loss_class.is_ours or loss_class.loss_class in references


def logits_with_margins(num_classes: int, margins: Tensor, label: int) -> Tensor:
    """(N, C): the label's logit is the margin, the others are spread over -1..1."""
    others = torch.linspace(-1, 1, num_classes).roll(1 - label)
    return torch.where(torch.arange(num_classes) == label, margins[:, None], others)


def assert_exact(found: Tensor, truths: list[mpf], at_least: int) -> None:
    assert found.dtype == torch.float32
    errors = [
        (float(abs(mpf(value) / truth - 1)), i)
        for i, (value, truth) in enumerate(zip(found.tolist(), truths, strict=True))
        if truth > SMALLEST
    ]
    assert len(errors) >= at_least
    error, at = max(errors)
    assert error <= 1e-5, f"relative error {error:.1e} at {at}: {found[at]} for {mpmath.nstr(truths[at], 10)}"


@pytest.mark.parametrize("num_classes", [2, 10])
def test_losses_of_labels_are_exact(pointwise: Example, num_classes: int) -> None:
    """Half-precision logits are widened before anything else, so that they are as exact."""
    if pointwise.loss_class not in OF_LABEL:
        pytest.skip("a user's loss has no reference")
    loss = pointwise.make(num_classes, reduction="none")
    reference = OF_LABEL[pointwise.loss_class]
    for dtype in (torch.float32, *HALVES):
        logits = logits_with_margins(num_classes, MARGINS, label=1).to(dtype)
        with mpmath.workdps(60):
            truths = [reference(tuple(z), 1, loss) for z in logits.tolist()]
        labels = torch.ones(len(logits), dtype=torch.int64)
        # A loss like (1 - p)^(gamma + 1), or with a scale of 30, falls below float32's numbers at a margin of 3.
        assert_exact(loss(logits, labels), truths, at_least=61)


@pytest.mark.takes("probability_targets")
@pytest.mark.parametrize("num_classes", [2, 10])
def test_losses_of_probability_targets_are_exact(pointwise: Example, num_classes: int) -> None:
    if pointwise.loss_class not in OF_LABEL:
        pytest.skip("a user's loss has no reference")
    loss = pointwise.make(num_classes, reduction="none")
    reference = OF_LABEL[pointwise.loss_class]
    logits = logits_with_margins(num_classes, MARGINS[::2], label=1)
    for target in ([0.0, 1.0], [0.25, 0.75], [0.75, 0.25]):
        y = torch.tensor(target + [0.0] * (num_classes - 2))
        with mpmath.workdps(60):
            truths = [sum(y_k * reference(tuple(z), k, loss) for k, y_k in enumerate(target)) for z in logits.tolist()]
        assert_exact(loss(logits, y.expand(len(logits), -1)), truths, at_least=30)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "probabilities"])
def test_losses_of_batches_are_exact(batchwise: Example, num_classes: int, kind: str) -> None:
    """Two images of two classes with the same margin each; every such batch is evaluated alone."""
    if batchwise.loss_class not in OF_BATCH:
        pytest.skip("a user's loss has no reference")
    loss, reference = batchwise.make(num_classes), OF_BATCH[batchwise.loss_class]
    y = F.one_hot(torch.tensor([1, 0]), num_classes).float()
    if kind == "probabilities":
        y = 0.75 * y + 0.25 * y.roll(1, dims=1)
    for dtype in (torch.float32, *HALVES):
        batches = torch.stack([logits_with_margins(num_classes, MARGINS, label) for label in (1, 0)], dim=1).to(dtype)
        with mpmath.workdps(60):
            truths = [reference([softmax(tuple(z)) for z in rows], y.tolist(), loss) for rows in batches.tolist()]
        target = torch.tensor([1, 0]) if kind == "labels" else y
        assert_exact(vmap(loss, (0, None))(batches, target), truths, at_least=100)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("kind", ["labels", "one-hot"])
def test_gradients_are_exact(loss: Example, num_classes: int, kind: str) -> None:
    """Entry by entry, also where they are tiny: of images that are all but certain, or that a bounded loss lets go of.

    The reference is the gradient in float64, which is compared with the closed form in each loss's own tests.
    """
    if not loss.is_ours:
        pytest.skip("a gradient that rounds to 0 may be good enough for a user's loss")
    labels = torch.ones(len(MARGINS), dtype=torch.int64)
    found = []
    for dtype in (torch.float32, torch.float64):
        logits = logits_with_margins(num_classes, MARGINS, label=1).to(dtype).requires_grad_()
        target = labels if kind == "labels" else F.one_hot(labels, num_classes).to(dtype)
        found.append(torch.autograd.grad(loss.of_each_image(logits, target).sum(), logits)[0].double())
    counts = found[1].abs() > SMALLEST
    torch.testing.assert_close(found[0][counts], found[1][counts], rtol=1e-5, atol=0)
    assert counts.sum() > 60 or str(loss) == "TverskyLoss-alpha:1.0-beta:0.0"  # one image's soft precision is always 1
