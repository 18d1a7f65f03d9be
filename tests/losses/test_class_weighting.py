"""Class weights from class frequencies."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from losslab.losses import ClassWeighting, CrossEntropyLoss, EffectiveNumber, InverseFrequency

COUNTS = torch.tensor([6000, 500, 50, 3, 1])
RULES = [InverseFrequency(), *(EffectiveNumber(beta) for beta in (0.0, 0.9, 0.99, 0.999, 0.9999, 0.9999999))]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_training_images_weigh_1_on_average(rule: ClassWeighting) -> None:
    weights = rule(COUNTS)
    assert weights.dtype == torch.float32
    assert (weights > 0).all()
    assert (COUNTS * weights.double()).sum().item() == pytest.approx(COUNTS.sum().item(), rel=1e-6)


@pytest.mark.parametrize("rule", RULES[:1] + RULES[2:], ids=repr)
def test_rarer_classes_weigh_more(rule: ClassWeighting) -> None:
    assert (rule(COUNTS).diff() >= 0).all()
    assert rule(COUNTS)[0] < rule(COUNTS)[-1]


def test_inverse_frequency_is_n_over_c_n_c() -> None:
    expected = COUNTS.sum() / (5 * COUNTS.double())
    torch.testing.assert_close(InverseFrequency()(COUNTS).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99, 0.999, 0.9999, 0.9999999])
def test_effective_number_is_the_papers_formula_to_6_digits(beta: float) -> None:
    """(1 - beta) / (1 - beta^n), by 60 digits, up to the common factor."""
    with mpmath.workdps(60):
        raw = [(1 - mpmath.mpf(beta)) / (1 - mpmath.mpf(beta) ** n) for n in COUNTS.tolist()]
        factor = sum(COUNTS.tolist()) / sum(n * w for n, w in zip(COUNTS.tolist(), raw, strict=True))
        expected = [float(factor * w) for w in raw]
    assert EffectiveNumber(beta)(COUNTS).tolist() == pytest.approx(expected, rel=1e-6)


def test_effective_number_is_between_no_weights_and_inverse_frequency() -> None:
    assert EffectiveNumber(0.0)(COUNTS).tolist() == [1.0] * 5
    torch.testing.assert_close(EffectiveNumber(0.9999999999)(COUNTS), InverseFrequency()(COUNTS), rtol=1e-5, atol=0)
    rarest = [rule(COUNTS)[-1].item() for rule in RULES[1:]]
    assert rarest == sorted(rarest)


def test_equal_frequencies_have_no_weights() -> None:
    for rule in RULES:
        assert rule(torch.tensor([7, 7, 7])).tolist() == pytest.approx([1.0] * 3)


def test_weights_survive_a_state_dict() -> None:
    for rule in RULES:
        loss, fresh = CrossEntropyLoss(class_weights=rule), CrossEntropyLoss(class_weights=rule)
        loss.set_class_counts(COUNTS)
        fresh.load_state_dict(loss.state_dict())
        assert torch.equal(fresh.class_weights, rule(COUNTS))


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\), got {beta}"):
        EffectiveNumber(beta)


def test_a_users_rule_says_only_what_a_class_of_n_images_weighs() -> None:
    class SquareRoot(ClassWeighting):
        def of_counts(self, counts: Tensor) -> Tensor:
            return counts.rsqrt()

    weights = SquareRoot()(torch.tensor([400, 100]))
    assert weights.tolist() == pytest.approx([5 / 6, 10 / 6])
    loss = CrossEntropyLoss(class_weights=SquareRoot(), reduction="none")
    loss.set_class_counts(torch.tensor([400, 100]))
    assert loss(torch.zeros(2, 2), torch.tensor([0, 1])).tolist() == pytest.approx((weights * math.log(2)).tolist())


def test_rules_show_their_arguments() -> None:
    assert repr(InverseFrequency()) == "InverseFrequency()"
    assert repr(EffectiveNumber(0.9999)) == "EffectiveNumber(beta=0.9999)"
