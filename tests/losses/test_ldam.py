"""A margin that is larger for rarer classes."""

import pytest
import torch
import torch.nn.functional as F

from losslab.losses import CrossEntropyLoss, LDAMLoss

LOGITS = 2 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(40) % 3
COUNTS = torch.tensor([1600, 81, 1])


def ldam(max_margin: float, scale: float = 1.0) -> LDAMLoss:
    loss = LDAMLoss(max_margin, scale, reduction="none")
    loss.set_class_counts(COUNTS)
    return loss


def test_no_margin_is_cross_entropy() -> None:
    expected = CrossEntropyLoss("none")(LOGITS, LABELS)
    torch.testing.assert_close(ldam(0.0)(LOGITS, LABELS), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_it_is_cross_entropy_with_the_labels_logit_lowered(scale: float) -> None:
    """m_c = max_margin (n_min / n_c)^(1/4): here 0.5 times 1/6.32, 1/3 and 1."""
    margin = 0.5 / COUNTS.double() ** 0.25
    lowered = LOGITS - F.one_hot(LABELS, 3) * margin
    torch.testing.assert_close(
        ldam(0.5, scale)(LOGITS, LABELS),
        F.cross_entropy(scale * lowered, LABELS, reduction="none"),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("max_margin", [0.0, 0.5, 2.0])
def test_its_gradient_is_the_closed_form(max_margin: float, scale: float) -> None:
    """s (q - onehot), q the softmax with the label's logit lowered by its margin."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ldam(max_margin, scale)(logits, LABELS).sum(), logits)
    y = F.one_hot(LABELS, 3)
    q = (scale * (LOGITS - y * max_margin / COUNTS.double() ** 0.25)).softmax(1)
    torch.testing.assert_close(gradient, scale * (q - y), rtol=0, atol=1e-12)


def test_equal_frequencies_have_one_margin() -> None:
    loss = LDAMLoss(0.5, reduction="none")
    loss.set_class_counts(torch.tensor([7, 7, 7]))
    extra = loss(torch.zeros(3, 3), torch.arange(3)) - ldam(0.0)(torch.zeros(3, 3), torch.arange(3))
    assert extra.tolist() == pytest.approx([extra[0].item()] * 3)
    assert extra[0] > 0


def test_a_margin_costs_and_costs_most_for_the_rarest() -> None:
    extra = ldam(0.5)(torch.zeros(3, 3), torch.arange(3)) - ldam(0.0)(torch.zeros(3, 3), torch.arange(3))
    assert (extra > 0).all()
    assert extra.argsort().tolist() == [0, 1, 2]


def test_arguments_out_of_range_and_missing_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="max_margin must be >= 0 and finite, got -1"):
        LDAMLoss(-1)
    with pytest.raises(ValueError, match="scale must be > 0 and finite, got 0"):
        LDAMLoss(scale=0)
    with pytest.raises(ValueError, match="LDAMLoss needs the classes' frequencies"):
        LDAMLoss()(LOGITS, LABELS)
