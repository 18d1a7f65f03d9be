"""Cross-entropy with the frequent classes' head start."""

import pytest
import torch
import torch.nn.functional as F

from losslab.losses import CrossEntropyLoss, LogitAdjustedLoss

LOGITS = 2 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(40) % 3
COUNTS = torch.tensor([900, 90, 10])


def adjusted(tau: float, counts: torch.Tensor = COUNTS) -> LogitAdjustedLoss:
    loss = LogitAdjustedLoss(tau)
    loss.set_class_counts(counts)
    return loss


def test_tau_0_and_equal_frequencies_are_cross_entropy() -> None:
    plain = CrossEntropyLoss()(LOGITS, LABELS)
    torch.testing.assert_close(adjusted(0.0)(LOGITS, LABELS), plain, rtol=1e-14, atol=0)
    torch.testing.assert_close(adjusted(1.0, torch.tensor([7, 7, 7]))(LOGITS, LABELS), plain, rtol=1e-12, atol=0)


def test_tau_1_is_the_posterior_under_the_training_frequencies() -> None:
    """p_k ~ pi_k exp z_k (Menon et al., equation 10)."""
    weighted = COUNTS / COUNTS.sum() * LOGITS.exp()
    posterior = weighted / weighted.sum(1, keepdim=True)
    expected = -posterior.gather(1, LABELS[:, None]).log().mean()
    torch.testing.assert_close(adjusted(1.0)(LOGITS, LABELS), expected)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_its_gradient_is_the_closed_form(tau: float) -> None:
    """q - onehot(t), q ~ pi^tau exp z."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(adjusted(tau)(logits, LABELS), logits)
    q = (COUNTS.double() / COUNTS.sum()) ** tau * LOGITS.exp()
    expected = (q / q.sum(1, keepdim=True) - F.one_hot(LABELS, 3)) / 40
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_its_minimiser_ranks_classes_as_if_they_were_equally_frequent() -> None:
    """One input, label frequencies 60:30:10, classes 900:90:10 in training: the balanced posterior favours class 2."""
    share = torch.tensor([0.60, 0.30, 0.10]).double()
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = adjusted(1.0)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits, share[None])
        value.backward()
        return value

    optimizer.step(closure)
    balanced = share / COUNTS
    torch.testing.assert_close(logits.detach().softmax(1)[0], balanced / balanced.sum(), rtol=1e-4, atol=1e-6)
    assert logits.argmax() == 2


def test_without_frequencies_it_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="LogitAdjustedLoss needs the classes' frequencies: call set_class_counts"):
        LogitAdjustedLoss()(LOGITS, LABELS)
    with pytest.raises(ValueError, match="class counts must be 3 numbers, one a class, got 2"):
        adjusted(1.0, torch.tensor([5, 6]))(LOGITS, LABELS)


def test_tau_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="tau must be >= 0 and finite, got -1"):
        LogitAdjustedLoss(-1)
