"""Logits of any size, right or wrong, in any dtype: finite losses with finite first and second derivatives.

Masks too: a class whose logit is -inf is as if it were not there.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_examples import COUNTS, Example
from torch import Tensor

MARGINS = (8, 17, 20, 37, 50, 89, 104, 1e3, 1e4, 6e4)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INF = float("inf")

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32", "float16", "bfloat16"])


def far_logits(dtype: torch.dtype) -> Tensor:
    """Class 0, the target, is above (first half) or below (second half) one or both of two others by each margin."""
    margins = torch.tensor([*MARGINS, *(-m for m in MARGINS)], dtype=dtype)
    zero = torch.zeros_like(margins)
    both, one = torch.stack([margins, zero, zero], dim=1), torch.stack([margins, zero, margins - 1], dim=1)
    return torch.cat([both[: len(MARGINS)], one[: len(MARGINS)], both[len(MARGINS) :], one[len(MARGINS) :]])


def derivatives(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of losses (N,) of single images: gradients (N, C) and Hessians (N, C, C)."""
    (gradient,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
    if not gradient.requires_grad:  # linear in the logits
        return gradient, torch.zeros(*logits.shape, logits.shape[1])
    rows = [torch.autograd.grad(gradient[:, k].sum(), logits, retain_graph=True)[0] for k in range(logits.shape[1])]
    return gradient, torch.stack(rows, dim=1)


def assert_finite(example: Example, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    loss = example.of_each_image(logits, target)
    assert loss.isfinite().all(), f"loss {loss.tolist()}"
    gradient, hessian = derivatives(loss, logits)
    assert gradient.isfinite().all(), f"gradient {gradient.tolist()}"
    assert hessian.isfinite().all(), "second derivative"
    return loss.detach(), gradient.detach()


@every_dtype
def test_far_logits_have_finite_losses_gradients_and_hessians(any_loss: Example, dtype: torch.dtype) -> None:
    logits = far_logits(dtype)
    assert_finite(any_loss, logits, torch.zeros(len(logits), dtype=torch.int64))


@every_dtype
def test_a_nan_in_the_logits_is_a_nan_in_the_loss(any_loss: Example, dtype: torch.dtype) -> None:
    """As in torch's cross-entropy: a run that has gone wrong must not look like a perfect one."""
    labels = torch.tensor([0, 1, 2, 0])
    some, all_of_them = torch.zeros(4, 3, dtype=dtype), torch.full((4, 3), math.nan, dtype=dtype)
    some[1, 2] = math.nan
    losses = [any_loss.make(), any_loss.make(**any_loss.all_policies())]
    for logits in (some, all_of_them):
        for target in any_loss.targets(labels, F.one_hot(labels, 3).to(dtype)):
            assert all(loss(logits, target).isnan() for loss in losses)


def test_a_right_answer_costs_less_than_a_wrong_one(any_loss: Example) -> None:
    margins = torch.tensor([*MARGINS, *(-m for m in MARGINS)])
    logits = F.pad(margins[:, None], (0, 2))
    right, wrong = any_loss.of_each_image(logits, torch.zeros(len(logits), dtype=torch.int64)).chunk(2)
    assert (right < wrong).all()


@pytest.mark.takes("probability_targets")
@every_dtype
@pytest.mark.parametrize("share", [1.0, 0.75, 0.0], ids=["one-hot", "soft", "wrong"])
def test_far_logits_are_safe_with_probability_targets(loss: Example, dtype: torch.dtype, share: float) -> None:
    logits = far_logits(dtype)
    target = torch.tensor([share, 1 - share, 0.0], dtype=dtype).expand(len(logits), -1)
    _, gradient = assert_finite(loss, logits, target)
    if share == 1:
        labels = torch.zeros(len(logits), dtype=torch.int64)
        torch.testing.assert_close(gradient, assert_finite(loss, logits, labels)[1], rtol=1e-3, atol=1e-6)


@pytest.mark.takes("ignore_index")
@every_dtype
def test_far_logits_are_safe_with_weights_smoothing_and_ignored_images(loss: Example, dtype: torch.dtype) -> None:
    logits = far_logits(dtype).requires_grad_()
    labels = torch.arange(len(logits)) % 3
    labels[::4] = -100
    value = loss.make(**loss.all_policies())(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[::4] == 0).all()


def test_a_hopeless_image_keeps_its_full_pull(loss: Example) -> None:
    if not loss.is_ours:
        pytest.skip("whether a user's loss lets go of hopeless images is its own affair")
    for dtype in DTYPES:
        logits = torch.tensor([[m / 2, -m / 2, -m] for m in MARGINS[1:]], dtype=dtype).requires_grad_()
        labels = torch.ones(len(logits), dtype=torch.int64)
        (gradient,) = torch.autograd.grad(loss.of_each_image(logits, labels).sum(), logits)
        least = 0.99 * loss.arguments.get("weights", [1.0])[0]  # the compound's first weight is cross-entropy's
        assert (gradient[:, 1] <= -least).all()
        assert (gradient[:, 0] >= least).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_classes_masked_by_minus_infinity_are_as_if_they_were_not_there(loss: Example, dtype: torch.dtype) -> None:
    masked, left = [1, 4], [0, 2, 3]
    logits = torch.tensor([[1.0, 0.5, -2.0], [-1.0, 30.0, 3.0], [0.0, 40.0, 80.0], [60.0, -1.0, 0.0]], dtype=dtype)
    wide = torch.full((4, 5), -INF, dtype=dtype)
    wide[:, left] = logits
    labels = torch.tensor([0, 2, 1, 0])  # of the classes that are left
    shares = torch.tensor([[0.5, 0.25, 0.25]], dtype=dtype).expand(4, -1)
    of_all = torch.zeros(4, 5, dtype=dtype)
    of_all[:, left] = shares
    for weights in (None, [0.5, 2.0, 0.25, 1.0, 3.0]):
        if weights is not None and not loss.takes("class_weights"):
            continue
        policies = {} if weights is None else {"class_weights": weights}
        of_left = {} if weights is None else {"class_weights": [weights[c] for c in left]}
        masking, small = loss.make(5, **policies), loss.make(3, **of_left)
        small.set_class_counts(COUNTS[left])
        pairs = [(torch.tensor(left)[labels], labels), (of_all, shares)]
        for target, small_target in pairs[: len(loss.targets(labels, shares))]:
            one, other = wide.clone().requires_grad_(), logits.clone().requires_grad_()
            value, expected = masking(one, target), small(other, small_target)
            torch.testing.assert_close(value, expected)
            (gradient,) = torch.autograd.grad(value, one, create_graph=True)
            torch.testing.assert_close(gradient[:, left], torch.autograd.grad(expected, other)[0])
            assert (gradient[:, masked] == 0).all()
            (second,) = torch.autograd.grad(gradient.square().sum(), one)
            assert second.isfinite().all()


def test_masked_classes_leave_a_users_loss_finite(any_loss: Example) -> None:
    logits = torch.tensor([[1.0, -INF, 0.5, -INF], [-1.0, -INF, 30.0, -INF]])
    assert_finite(any_loss, logits, torch.tensor([0, 0]))


@every_dtype
def test_the_target_may_be_the_only_class_left(any_loss: Example, dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, -INF, -INF], [-30.0, -INF, -INF]], dtype=dtype)
    labels = torch.zeros(2, dtype=torch.int64)
    for target in any_loss.targets(labels, F.one_hot(labels, 3).to(dtype)):
        loss, gradient = assert_finite(any_loss, logits, target)
        assert (gradient[:, 1:] == 0).all()
        if not str(any_loss).startswith("BinaryFocalLoss"):  # each of whose logits has a sigmoid of its own
            assert (loss.abs() < 1e-6).all()
            assert (gradient == 0).all()


def test_derivatives_in_the_hyper_parameters_are_finite(loss: Example) -> None:
    """Of every buffer that is a number: it may be tuned by gradient, or stacked."""
    logits = torch.cat([far_logits(torch.float32), torch.tensor([[2.0, -INF, -INF], [0.3, -0.7, 0.1]])])
    labels = torch.zeros(len(logits), dtype=torch.int64)
    shares = torch.tensor([0.75, 0.25, 0.0]).expand(len(logits), -1)
    shares = torch.cat([shares[:-2], torch.tensor([[1.0, 0.0, 0.0]]).expand(2, -1)])
    made = loss.make()
    numbers = [b.requires_grad_() for b in made.buffers() if b.ndim == 0 and b.is_floating_point()]
    logits.requires_grad_()
    for target in loss.targets(labels, shares):
        for i in range(len(logits)):
            value = made(logits[i : i + 1], target[i : i + 1])
            found = torch.autograd.grad(value, [logits, *numbers], allow_unused=True)[1:]
            assert all(derivative is None or derivative.isfinite() for derivative in found), f"{logits[i]}, {found}"
