"""What holds for every loss: of losslab's own and, with `pytest --loss`, of a user's.

`any_loss` may be a plain module of which nothing is known but how it is called; `loss` derives from losslab's Loss.
"""

import ast
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from loss_examples import COUNTS, Example, can_be_built, classes_of_losslab
from torch import Tensor, nn

from losslab.losses import CrossEntropyLoss, EffectiveNumber, InverseFrequency, Loss, PointwiseLoss

NAN, INF = math.nan, math.inf
WEIGHTS = [0.5, 1.0, 2.0]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> Tensor:
    return (2 * random(6, 3)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 0, 1])


@pytest.fixture
def probabilities() -> Tensor:
    return random(6, 3, seed=1).softmax(dim=1)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    """Of a sum with unequal parts, so that every entry of reduction="none" counts."""
    parts = torch.arange(1.0, 1 + loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return torch.autograd.grad((loss * parts).sum(), logits, retain_graph=True)[0]


def assert_same(one: Tensor, other: Tensor, logits: Tensor) -> None:
    """The same value and gradient, to 1e-12."""
    both = [(loss, gradient(loss, logits)) for loss in (one, other)]
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-14)


def reductions(example: Example) -> list[dict[str, str]]:
    return [{"reduction": name} for name in ("mean", "sum", "none")] if example.takes("reduction") else [{}]


# What there is to be tested


@pytest.mark.parametrize("found", classes_of_losslab(), ids=lambda found: found.__name__)
def test_every_loss_of_the_package_is_in_these_tests(found: type[Loss]) -> None:
    assert can_be_built(found), "it has arguments without defaults: give loss_examples.BUILDERS a way to build it"


def test_the_losses_are_found_in_the_package() -> None:
    names = {loss_class.__name__ for loss_class in classes_of_losslab()}
    assert {"CrossEntropyLoss", "FocalLoss", "BinaryFocalLoss", "DiceLoss", "CompoundLoss"} <= names
    assert len(names) >= 11
    assert not any(inspect.isabstract(loss_class) for loss_class in classes_of_losslab())


def test_every_failure_of_other_libraries_has_its_test() -> None:
    """B1..B24 of the design's survey, which has no B19, each in a test named test_b<number>_<what it shows>."""
    found = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_b"):
                number, _, shown = node.name.removeprefix("test_b").partition("_")
                if number.isdigit() and shown:
                    found.add(int(number))
    assert found == set(range(1, 25)) - {19}


def test_the_base_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Loss()


# Theorems of any loss


def test_it_is_a_scalar_with_a_gradient(any_loss: Example, logits: Tensor, labels: Tensor) -> None:
    loss = any_loss.make()(logits, labels)
    assert loss.shape == ()
    assert loss.is_floating_point()
    assert loss.isfinite()
    assert gradient(loss, logits).abs().max() > 0


@pytest.mark.parametrize("saturated", [False, True], ids=["near", "far"])
def test_first_and_second_derivatives_are_those_of_the_values(any_loss: Example, saturated: bool) -> None:
    at = (random(3, 3) * (24 if saturated else 2)).requires_grad_()
    labels, probabilities = torch.tensor([0, 2, 1]), random(3, 3, seed=1).softmax(dim=1)
    losses = [any_loss.make(), any_loss.make(**any_loss.all_policies())]
    for loss, target in zip(losses, [labels, any_loss.targets(labels, probabilities)[-1]], strict=True):
        assert torch.autograd.gradcheck(lambda z, loss=loss, target=target: loss(z, target), at)
        assert torch.autograd.gradgradcheck(lambda z, loss=loss, target=target: loss(z, target), at, fast_mode=True)


def test_adding_a_number_to_all_logits_of_an_image_changes_nothing(
    any_loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    loss = any_loss.make(**any_loss.all_policies())
    for target in any_loss.targets(labels, probabilities):
        value = loss(logits, target)
        for shift in (-1000.0, 1.5, 1000.0, torch.arange(6.0)[:, None]):
            torch.testing.assert_close(loss(logits + shift, target), value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradient(value, logits).sum(dim=1), torch.zeros(6).double(), rtol=0, atol=1e-14)


def test_the_order_of_images_is_no_matter(any_loss: Example, logits: Tensor, labels: Tensor) -> None:
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    loss = any_loss.make()
    assert_same(loss(logits[order], labels[order]), loss(logits, labels), logits)


def test_inputs_and_the_random_generators_stay_as_they_are_and_calls_are_repeatable(
    any_loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    loss = any_loss.make(**any_loss.all_policies())
    for target in any_loss.targets(labels, probabilities):
        before, state = (logits.clone(), target.clone()), torch.random.get_rng_state()
        first = loss(logits, target)
        first.backward()
        loss(-logits, target)
        assert torch.equal(loss(logits, target), first)
        assert torch.equal(logits, before[0])
        assert torch.equal(target, before[1])
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_autocast_changes_nothing(
    any_loss: Example, dtype: torch.dtype, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    loss, logits = any_loss.make(**any_loss.all_policies()), logits.detach().to(dtype)
    for target in any_loss.targets(labels, probabilities.float()):
        outside = loss(logits, target)
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(logits, target)
        if issubclass(any_loss.loss_class, Loss):
            assert inside.dtype == torch.float32
            assert inside == outside
        torch.testing.assert_close(inside, outside, rtol=2e-2, atol=1e-3, check_dtype=False)


# Targets: labels, probabilities, further dimensions


@pytest.mark.takes("probability_targets")
def test_a_one_hot_target_is_its_label(loss: Example, logits: Tensor, labels: Tensor) -> None:
    for policies in ({}, loss.all_policies()):
        for reduction in reductions(loss):
            made = loss.make(**policies, **reduction)
            assert_same(made(logits, F.one_hot(labels, 3).double()), made(logits, labels), logits)


def test_further_dimensions_are_further_images(loss: Example) -> None:
    """(N, C, ...) is the rows (N', C), and losses of images come in the labels' shape."""
    logits, shares = 2 * random(2, 3, 4, 2), random(2, 3, 4, 2, seed=1).softmax(dim=1)
    labels = torch.arange(16).reshape(2, 4, 2) % 3
    labels[1, 2, 0] = -100
    logits.requires_grad_()
    for policies in ({}, loss.all_policies()):
        some = labels if "ignore_index" in policies else labels.clamp_min(0)
        for target in loss.targets(some, shares):
            rows = [v.movedim(1, -1).reshape(-1, 3) if v.ndim == 4 else v.flatten() for v in (logits, target)]
            for reduction in reductions(loss):
                made = loss.make(**{**policies, **reduction})
                value, expected = made(logits, target), made(*rows)
                if reduction.get("reduction") == "none" and issubclass(loss.loss_class, PointwiseLoss):
                    assert value.shape == (2, 4, 2)
                    value = value.flatten()
                assert_same(value, expected, logits)


# Dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_logits_are_computed_and_returned_in_float32(
    loss: Example, dtype: torch.dtype, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    half = logits.detach().to(dtype).requires_grad_()
    made = loss.make(**loss.all_policies())
    for target in (*loss.targets(labels, probabilities), *loss.targets(labels, probabilities.to(dtype))[1:]):
        value = made(half, target)
        assert value.dtype == torch.float32
        assert value == made(half.detach().float(), target)
        found = gradient(value, half)
        assert found.dtype == dtype
        assert found.abs().sum() > 0


def test_float64_stays_float64(loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor) -> None:
    for target in loss.targets(labels, probabilities):
        value = loss.make(**loss.all_policies())(logits, target)
        assert value.dtype == torch.float64
        assert value.item() != value.float().item()


@pytest.mark.takes("probability_targets")
def test_half_probabilities_may_sum_to_1_less_exactly(loss_class: Example, logits: Tensor) -> None:
    target = torch.tensor([[0.498, 0.498, 0.0]]).expand(6, -1)
    exact = torch.tensor([[0.5, 0.5, 0.0]]).expand(6, -1)
    loss = loss_class.make()
    torch.testing.assert_close(loss(logits, target.bfloat16()), loss(logits, exact), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match=r"rows that sum to 1, got a smallest value of 0 and sums of 0\.996"):
        loss(logits, target)


# Reduction, class weights and counts


@pytest.mark.takes("reduction")
def test_a_mean_and_a_sum_are_scalars(loss: Example, logits: Tensor, labels: Tensor) -> None:
    for policies in ({}, loss.all_policies()):
        each, total, mean = (loss.make(**policies, reduction=r)(logits, labels) for r in ("none", "sum", "mean"))
        assert total.shape == mean.shape == ()
        assert each.ndim == 1
        torch.testing.assert_close(total, each.sum(), rtol=1e-12, atol=0)


@pytest.mark.takes("reduction", "class_weights")
def test_it_is_linear_in_the_class_weights(
    loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    """A weight multiplies a loss: it never enters a probability."""
    one, other = torch.tensor(WEIGHTS), torch.tensor([0.25, 0.0, 4.0])
    for target in loss.targets(labels, probabilities):
        for reduction in ("none", "sum"):
            policies = {**loss.all_policies(), "reduction": reduction}
            values = [
                loss.make(**{**policies, "class_weights": weights.tolist()})(logits, target)
                for weights in (one, other, 2 * one + other)
            ]
            assert_same(values[2], 2 * values[0] + values[1], logits)


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("factor", [8.0, 0.125])
def test_a_mean_does_not_depend_on_the_scale_of_the_weights(
    loss_class: Example, factor: float, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    for target in loss_class.targets(labels, probabilities):
        one, other = (loss_class.make(class_weights=[f * w for w in WEIGHTS])(logits, target) for f in (1, factor))
        assert_same(one, other, logits)


@pytest.mark.takes("class_weights")
def test_a_batch_of_classes_without_weight_has_loss_0_and_gradient_0(loss: Example, logits: Tensor) -> None:
    labels, shares = torch.tensor([0, 2, 2, 0, 0, 2]), torch.tensor([[0.25, 0.0, 0.75]]).expand(6, -1)
    for target in loss.targets(labels, shares):
        for reduction in reductions(loss):
            value = loss.make(class_weights=[0, 1, 0], **reduction)(logits, target)
            assert (value == 0).all()
            assert (gradient(value, logits) == 0).all()


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("weighting", [InverseFrequency(), EffectiveNumber(0.99)], ids=repr)
def test_a_weighting_rule_is_the_weights_that_it_gives(
    loss_class: Example, weighting: object, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    given = weighting(COUNTS[:3]).tolist()
    for target in loss_class.targets(labels, probabilities):
        for reduction in reductions(loss_class):
            by_rule = loss_class.make(class_weights=weighting, **reduction)(logits, target)
            assert_same(by_rule, loss_class.make(class_weights=given, **reduction)(logits, target), logits)
            plain = loss_class.make(**reduction)(logits, target)
            assert not torch.allclose(by_rule, plain, rtol=1e-3)


@pytest.mark.takes("class_weights")
def test_a_weighting_rule_needs_the_counts(loss_class: Example, logits: Tensor, labels: Tensor) -> None:
    loss = loss_class.build(class_weights=InverseFrequency())
    with pytest.raises(ValueError, match=r"class_weights=InverseFrequency\(\) needs the classes' frequencies"):
        loss(logits, labels)


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_counts_do_not_change_weights_that_do_not_follow_from_them(
    loss_class: Example, weights: list[float] | None, logits: Tensor, labels: Tensor
) -> None:
    loss = loss_class.make(class_weights=weights)
    before = [buffer.clone() for name, buffer in loss.named_buffers() if "class_weights" in name]
    loss.set_class_counts(torch.tensor([30, 10, 60]))
    after = [buffer for name, buffer in loss.named_buffers() if "class_weights" in name]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert bool(after) == (weights is not None)


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("weighting", [InverseFrequency(), EffectiveNumber(0.99)], ids=repr)
def test_counts_survive_a_state_dict_and_weights_follow_from_them(
    loss_class: Example, weighting: object, logits: Tensor, labels: Tensor
) -> None:
    loss, fresh = loss_class.make(class_weights=weighting), loss_class.make(class_weights=weighting)
    loss.set_class_counts(torch.tensor([30, 10, 60]))
    state = loss.state_dict()
    assert state["class_counts"].tolist() == [30, 10, 60]
    assert not any(key.endswith(name) for key in state for name in ("class_weights", "label_smoothing", "gamma"))
    fresh.load_state_dict(state)
    assert fresh.class_counts.tolist() == [30, 10, 60]
    assert fresh(logits, labels) == loss(logits, labels)
    assert fresh(logits, labels) != loss_class.make(class_weights=weighting)(logits, labels)


def test_a_loss_that_was_not_told_the_counts_gets_them_from_a_checkpoint(logits: Tensor, labels: Tensor) -> None:
    models = [nn.ModuleDict({"loss": CrossEntropyLoss(class_weights=InverseFrequency())}) for _ in range(2)]
    models[0]["loss"].set_class_counts(torch.tensor([1, 3]))
    models[1].load_state_dict(models[0].state_dict())
    torch.testing.assert_close(models[1]["loss"].class_weights, torch.tensor([2.0, 2 / 3]))


@pytest.mark.takes("class_weights")
def test_weights_may_be_any_sequence_of_numbers(loss_class: Example, logits: Tensor, labels: Tensor) -> None:
    values = [
        loss_class.make(class_weights=weights)(logits, labels)
        for weights in ([1, 2, 3], (1.0, 2.0, 3.0), torch.tensor([1.0, 2.0, 3.0]))
    ]
    assert values[0] == values[1] == values[2]
    assert values[0] != loss_class.make()(logits, labels)


def test_the_order_of_classes_is_no_matter(
    loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    """If their weights and counts move with them."""
    order = torch.tensor([2, 0, 1])
    policies = loss.all_policies()
    made = loss.make(**policies)
    if "class_weights" in policies:
        policies["class_weights"] = [policies["class_weights"][c] for c in order]
    moved = loss.make(**policies)
    moved.set_class_counts(COUNTS[order])
    targets = loss.targets(labels, probabilities)
    moved_targets = loss.targets(order.argsort()[labels], probabilities[:, order])
    for target, moved_target in zip(targets, moved_targets, strict=True):
        assert_same(moved(logits[:, order], moved_target), made(logits, target), logits)


# Images to leave out


@pytest.mark.takes("ignore_index")
@pytest.mark.parametrize("ignored", [-100, 255, 1])
def test_ignored_images_are_as_if_they_were_not_there(loss: Example, ignored: int, labels: Tensor) -> None:
    """Whatever their logits are, NaN even."""
    labels = torch.where(labels == 1, 2, labels)
    left_out = torch.tensor([False, True, False, False, True, False])
    logits = 2 * random(6, 3)
    for policies in ({}, {**loss.all_policies(), "ignore_index": ignored}):
        for reduction in reductions(loss):
            made = loss.make(**{**policies, "ignore_index": ignored, **reduction})
            alone, among = logits[~left_out].requires_grad_(), logits.clone()
            among[1], among[4] = NAN, INF
            among.requires_grad_()
            value, expected = made(among, labels.masked_fill(left_out, ignored)), made(alone, labels[~left_out])
            if reduction.get("reduction") == "none" and issubclass(loss.loss_class, PointwiseLoss):
                assert (value[left_out] == 0).all()
                value = value[~left_out]
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
            found = gradient(value, among)
            torch.testing.assert_close(found[~left_out], gradient(expected, alone), rtol=1e-12, atol=1e-15)
            assert (found[left_out] == 0).all()


@pytest.mark.takes("ignore_index")
def test_a_batch_of_ignored_images_has_loss_0_and_a_gradient_of_0(loss: Example, logits: Tensor) -> None:
    for policies in ({}, loss.all_policies()):
        for reduction in reductions(loss):
            value = loss.make(**{**policies, "ignore_index": -100, **reduction})(logits, torch.full((6,), -100))
            assert value.requires_grad
            assert (value == 0).all()
            assert (gradient(value, logits) == 0).all()


def test_a_label_to_ignore_is_refused_if_the_loss_was_not_told_of_it(
    loss_class: Example, logits: Tensor, labels: Tensor
) -> None:
    labels[3] = -100
    with pytest.raises(ValueError, match=r"target must be in 0..2, got -100..2 \(give a label .* as ignore_index"):
        loss_class.make()(logits, labels)


# Refusals: they name the argument, its value and its range.


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("weights", [[1.0, -0.5, 1.0], [1.0, NAN, 1.0], [1.0, INF, 1.0], []], ids=str)
def test_weights_that_are_negative_not_finite_or_none_at_all_are_refused(
    loss_class: Example, weights: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"class_weights must be numbers >= 0, one for each class, got \["):
        loss_class.make(class_weights=weights)


@pytest.mark.takes("class_weights")
@pytest.mark.parametrize("weights", ["inverse-frequency", InverseFrequency, 2.0, [[1.0, 2.0, 3.0]]], ids=str)
def test_weights_that_are_neither_numbers_nor_a_rule_are_refused(loss_class: Example, weights: object) -> None:
    with pytest.raises(ValueError, match=rf"class_weights must be .* or None, got {re.escape(repr(weights))}"):
        loss_class.make(class_weights=weights)


@pytest.mark.takes("class_weights")
def test_weights_of_another_number_of_classes_are_refused(loss_class: Example, logits: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="class_weights must be 3 numbers, one a class, got 2"):
        loss_class.make(class_weights=[1.0, 2.0])(logits, labels)


@pytest.mark.takes("reduction")
@pytest.mark.parametrize("reduction", ["average", "batchmean", "", None])
def test_an_unknown_reduction_is_refused(loss_class: Example, reduction: str) -> None:
    with pytest.raises(ValueError, match=f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}"):
        loss_class.make(reduction=reduction)


@pytest.mark.parametrize("counts", [[1, 0, 2], [[1, 2]]], ids=str)
def test_counts_that_are_no_counts_are_refused(loss_class: Example, counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"class counts must be \(C,\) numbers >= 1, got \["):
        loss_class.make().set_class_counts(torch.tensor(counts))


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.zeros(6, 1), r"float32 of shape \(6, 1\)"),
        (torch.zeros(0, 3), r"float32 of shape \(0, 3\)"),
        (torch.zeros(2, 3, 0), r"float32 of shape \(2, 3, 0\)"),
        (torch.zeros(6), r"float32 of shape \(6,\)"),
        (torch.zeros(6, 3, dtype=torch.int64), r"int64 of shape \(6, 3\)"),
    ],
    ids=["one class", "no image", "no pixel", "no classes", "integers"],
)
def test_logits_of_a_wrong_shape_or_dtype_are_refused(loss_class: Example, bad: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=rf"logits must be floating, .*N >= 1 and C >= 2, got torch.{got}"):
        loss_class.make()(bad, torch.zeros(bad.shape[:1] + bad.shape[2:], dtype=torch.int64))


@pytest.mark.parametrize(
    ("shape", "bad", "got"),
    [
        ((6, 3), torch.zeros(5, dtype=torch.int64), r"int64 of shape \(5,\)"),
        ((6, 3), torch.zeros(6, 1, dtype=torch.int64), r"int64 of shape \(6, 1\)"),
        ((6, 3), torch.zeros(6, dtype=torch.int32), r"int32 of shape \(6,\)"),
        ((6, 3), torch.zeros(6), r"float32 of shape \(6,\)"),
        ((6, 3), torch.zeros(6, 3, dtype=torch.int64), r"int64 of shape \(6, 3\)"),
        ((6, 3), torch.full((6, 2), 0.5), r"float32 of shape \(6, 2\)"),
        ((6, 3), torch.zeros((), dtype=torch.int64), r"int64 of shape \(\)"),
        ((6, 3, 2), torch.zeros(6, dtype=torch.int64), r"int64 of shape \(6,\)"),
        ((6, 3, 2), torch.zeros(6, 2, 3), r"float32 of shape \(6, 2, 3\)"),
    ],
    ids=[
        *("too few", "column", "int32", "float labels", "int one-hot", "too few classes", "scalar"),
        *("labels of images for pixels", "classes last"),
    ],
)
def test_targets_of_a_wrong_shape_or_dtype_are_refused(
    loss_class: Example, shape: tuple[int, ...], bad: Tensor, got: str
) -> None:
    with pytest.raises(ValueError, match=rf"target must be int64 labels of shape \(6,.*\) or .* got torch.{got}"):
        loss_class.make()(torch.zeros(shape), bad)


@pytest.mark.parametrize(("label", "got"), [(3, "0..3"), (-1, "-1..2")])
def test_labels_out_of_range_are_refused(
    loss_class: Example, label: int, got: str, logits: Tensor, labels: Tensor
) -> None:
    labels[3] = label
    for policies in ({}, loss_class.all_policies()):
        with pytest.raises(ValueError, match=f"target must be in 0..2, got {got}"):
            loss_class.make(**policies)(logits, labels)


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
def test_rows_that_are_no_probabilities_are_refused(
    loss_class: Example, row: list[float], got: str, logits: Tensor, probabilities: Tensor
) -> None:
    probabilities[3] = torch.tensor(row)
    with pytest.raises(ValueError, match=rf"target probabilities must be >= 0 with rows that sum to 1, got .*({got})"):
        loss_class.make()(logits, probabilities)
