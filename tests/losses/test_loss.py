"""What holds for every loss of losslab: the checks of a call, dtypes, class weights and counts, transforms."""

import math

import pytest
import torch
from torch import Tensor

from losslab.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    Loss,
    PolyLoss,
    TverskyLoss,
)

LOSSES = (CrossEntropyLoss, FocalLoss, PolyLoss, GeneralizedCrossEntropyLoss, DiceLoss, TverskyLoss)
NAN, INF = math.nan, math.inf

every_loss = pytest.mark.parametrize("loss_class", LOSSES)


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 0, 1])


@pytest.fixture
def probabilities() -> Tensor:
    return torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Loss()


# Dtypes


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_and_returned_in_float32(loss_class, dtype, logits, labels, probabilities):
    half = logits.to(dtype).requires_grad_()
    for target in (labels, probabilities, probabilities.double()):
        loss = loss_class()(half, target)
        assert loss.dtype == torch.float32
        assert loss == loss_class()(half.detach().float(), target)
        (gradient,) = torch.autograd.grad(loss, half)
        assert gradient.dtype == dtype
        assert gradient.abs().sum() > 0


@every_loss
def test_float64_stays_float64(loss_class, logits, labels, probabilities):
    for target in (labels, probabilities):
        loss = loss_class(class_weights=[0.5, 1.0, 2.0])(logits.double(), target)
        assert loss.dtype == torch.float64
        assert loss.item() != loss.float().item()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(loss_class, dtype, logits, labels, probabilities):
    loss = loss_class(class_weights=[0.5, 1.0, 2.0])
    for target in (labels, probabilities):
        outside = loss(logits.to(dtype), target)
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(logits.to(dtype), target)
        assert inside.dtype == torch.float32
        assert inside == outside


@every_loss
def test_half_probabilities_may_sum_to_1_less_exactly(loss_class, logits):
    target = torch.tensor([[0.498, 0.498, 0.0]]).expand(6, -1)
    exact = torch.tensor([[0.5, 0.5, 0.0]]).expand(6, -1)
    torch.testing.assert_close(loss_class()(logits, target.bfloat16()), loss_class()(logits, exact), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match=r"rows that sum to 1, got a smallest value of 0 and sums of 0\.996"):
        loss_class()(logits, target)


# Class weights and counts


@every_loss
def test_inverse_frequency_needs_the_counts(loss_class, logits, labels):
    loss = loss_class(class_weights="inverse_frequency")
    with pytest.raises(ValueError, match="class_weights='inverse_frequency' needs the classes' frequencies"):
        loss(logits, labels)


@every_loss
def test_inverse_frequency_is_n_over_c_n_c(loss_class, logits, labels, probabilities):
    loss = loss_class(class_weights="inverse_frequency")
    loss.set_class_counts(torch.tensor([30, 10, 60]))
    given = loss_class(class_weights=[100 / 90, 100 / 30, 100 / 180])
    torch.testing.assert_close(loss.class_weights, given.class_weights)
    for target in (labels, probabilities):
        torch.testing.assert_close(loss(logits, target), given(logits, target))
        assert loss(logits, target) != loss_class()(logits, target)


@every_loss
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0]])
def test_counts_do_not_change_weights_that_do_not_follow_from_them(loss_class, weights, logits, labels):
    loss = loss_class(class_weights=weights)
    before = loss(logits, labels)
    loss.set_class_counts(torch.tensor([30, 10, 60]))
    assert loss(logits, labels) == before


@every_loss
@pytest.mark.parametrize("counted_before", [False, True])
def test_counts_and_their_weights_survive_a_state_dict(loss_class, counted_before, logits, labels):
    loss, fresh = (loss_class(class_weights="inverse_frequency") for _ in range(2))
    loss.set_class_counts(torch.tensor([30, 10, 60]))
    if counted_before:
        fresh.set_class_counts(torch.tensor([1, 5, 2]))
    assert set(loss.state_dict()) == {"class_counts"}
    fresh.load_state_dict(loss.state_dict())
    assert fresh.class_counts.tolist() == [30, 10, 60]
    torch.testing.assert_close(fresh.class_weights, loss.class_weights, rtol=0, atol=0)
    assert fresh(logits, labels) == loss(logits, labels)


def test_a_loss_inside_a_model_finds_its_counts_too():
    models = [torch.nn.ModuleDict({"loss": CrossEntropyLoss(class_weights="inverse_frequency")}) for _ in range(2)]
    models[0]["loss"].set_class_counts(torch.tensor([1, 3]))
    models[1].load_state_dict(models[0].state_dict())
    torch.testing.assert_close(models[1]["loss"].class_weights, torch.tensor([2.0, 2 / 3]))


@every_loss
def test_weights_may_be_any_sequence_of_numbers(loss_class, logits, labels):
    values = [
        loss_class(class_weights=weights)(logits, labels)
        for weights in ([1, 2, 3], (1.0, 2.0, 3.0), torch.tensor([1.0, 2.0, 3.0]))
    ]
    assert values[0] == values[1] == values[2]
    assert values[0] != loss_class()(logits, labels)


# Refusals: they name the argument, its value and its range.


@every_loss
@pytest.mark.parametrize("weights", [[1.0, -0.5, 1.0], [1.0, NAN, 1.0], [1.0, INF, 1.0], []], ids=str)
def test_weights_that_are_negative_not_finite_or_none_at_all_are_refused(loss_class, weights):
    with pytest.raises(ValueError, match=r"class_weights must be numbers >= 0, one for each class, got \["):
        loss_class(class_weights=weights)


@every_loss
def test_a_misspelt_weighting_is_refused(loss_class):
    with pytest.raises(ValueError, match=r"class_weights must be .*'inverse_frequency' or None, got 'inverse-frequenc"):
        loss_class(class_weights="inverse-frequency")


@every_loss
def test_weights_of_another_number_of_classes_are_refused(loss_class, logits, labels):
    with pytest.raises(ValueError, match="class_weights must be 3 numbers, one a class, got 2"):
        loss_class(class_weights=[1.0, 2.0])(logits, labels)


@every_loss
def test_an_unknown_reduction_is_refused(loss_class):
    with pytest.raises(ValueError, match="reduction must be 'none', 'mean' or 'sum', got 'average'"):
        loss_class(reduction="average")


@every_loss
@pytest.mark.parametrize("counts", [[1, 0, 2], [[1, 2]]], ids=str)
def test_counts_that_are_no_counts_are_refused(loss_class, counts):
    with pytest.raises(ValueError, match=r"class counts must be \(C,\) numbers >= 1, got \["):
        loss_class().set_class_counts(torch.tensor(counts))


@every_loss
@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.zeros(6, 1), r"float32 of shape \(6, 1\)"),
        (torch.zeros(0, 3), r"float32 of shape \(0, 3\)"),
        (torch.zeros(6), r"float32 of shape \(6,\)"),
        (torch.zeros(6, 3, 2), r"float32 of shape \(6, 3, 2\)"),
        (torch.zeros(6, 3, dtype=torch.int64), r"int64 of shape \(6, 3\)"),
    ],
    ids=["one class", "no image", "no classes", "pixels", "integers"],
)
def test_logits_of_a_wrong_shape_or_dtype_are_refused(loss_class, bad, got):
    with pytest.raises(ValueError, match=rf"logits must be floating, .*N >= 1 and C >= 2, got torch.{got}"):
        loss_class()(bad, torch.zeros(len(bad), dtype=torch.int64))


@every_loss
@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.zeros(5, dtype=torch.int64), r"int64 of shape \(5,\)"),
        (torch.zeros(6, 1, dtype=torch.int64), r"int64 of shape \(6, 1\)"),
        (torch.zeros(6, dtype=torch.int32), r"int32 of shape \(6,\)"),
        (torch.zeros(6), r"float32 of shape \(6,\)"),
        (torch.zeros(6, 3, dtype=torch.int64), r"int64 of shape \(6, 3\)"),
        (torch.full((6, 2), 0.5), r"float32 of shape \(6, 2\)"),
        (torch.zeros((), dtype=torch.int64), r"int64 of shape \(\)"),
    ],
    ids=["too few", "column", "int32", "float labels", "int one-hot", "too few classes", "scalar"],
)
def test_targets_of_a_wrong_shape_or_dtype_are_refused(loss_class, bad, got, logits):
    with pytest.raises(ValueError, match=rf"target must be int64 labels of shape \(6,\) or .* got torch.{got}"):
        loss_class()(logits, bad)


@every_loss
@pytest.mark.parametrize(("label", "got"), [(3, "0..3"), (-1, "-1..2"), (-100, "-100..2")])
def test_labels_out_of_range_are_refused(loss_class, label, got, logits, labels):
    labels[3] = label
    with pytest.raises(ValueError, match=f"target must be in 0..2, got {got}"):
        loss_class()(logits, labels)


@every_loss
@pytest.mark.parametrize(
    ("row", "got"),
    [
        ([0.5, 0.5, 0.5], r"sums of 0.99\d*|1..1.5"),
        ([0.0, 0.0, 0.0], "sums of 0..1"),
        ([1.5, -0.5, 0.0], "smallest value of -0.5"),
        ([NAN, 0.5, 0.5], "sums of nan..nan"),
    ],
    ids=["too much", "nothing", "negative", "nan"],
)
def test_rows_that_are_no_probabilities_are_refused(loss_class, row, got, logits, probabilities):
    probabilities[3] = torch.tensor(row)
    with pytest.raises(ValueError, match=rf"target probabilities must be >= 0 with rows that sum to 1, got .*({got})"):
        loss_class()(logits, probabilities)


# Transforms


@every_loss
@pytest.mark.parametrize("arguments", [{}, {"class_weights": [0.5, 1.0, 2.0]}], ids=["plain", "weighted"])
def test_compiled_in_one_graph_it_is_the_same(loss_class, arguments, logits, labels, probabilities):
    """And values of targets, which would have to be looked at, are not checked."""
    torch.compiler.reset()
    loss = loss_class(**arguments)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for target in (labels, probabilities):
        one, other = (logits.clone().requires_grad_() for _ in range(2))
        value = compiled(one, target)
        torch.testing.assert_close(value, loss(other, target))
        value.backward()
        loss(other, target).backward()
        torch.testing.assert_close(one.grad, other.grad)
    assert compiled(logits, 2 * probabilities).isfinite()
    with pytest.raises(ValueError, match="rows that sum to 1"):
        loss(logits, 2 * probabilities)


@every_loss
def test_vmap_over_batches_is_each_batch(loss_class, logits, labels, probabilities):
    for target in (labels, probabilities):
        batches = logits.reshape(2, 3, 3), target.reshape(2, 3, *target.shape[1:])
        values = torch.func.vmap(loss_class())(*batches)
        torch.testing.assert_close(values, torch.stack([loss_class()(*batch) for batch in zip(*batches, strict=True)]))


@every_loss
def test_calls_are_repeatable_and_leave_no_trace(loss_class, logits, labels):
    loss = loss_class()
    state = torch.random.get_rng_state()
    first = loss(logits, labels)
    loss(-logits, labels)
    assert loss(logits, labels) == first
    assert torch.equal(torch.random.get_rng_state(), state)
