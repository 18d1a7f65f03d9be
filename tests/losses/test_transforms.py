"""torch.func and torch.compile on every loss."""

import copy

import pytest
import torch
from loss_examples import Example
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from losslab.losses import AdaptiveFocalLoss, CrossEntropyLoss, DiceLoss, Loss

CLASSES = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> Tensor:
    return (2 * random(6, CLASSES)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 3, 2, 0, 1])


@pytest.fixture
def probabilities() -> Tensor:
    return random(6, CLASSES, seed=1).softmax(dim=1)


def with_ignored(target: Tensor, example: Example) -> Tensor:
    """The third image left out, if targets are labels and the loss can."""
    if target.ndim > 1 or not example.takes("ignore_index"):
        return target
    return target.index_fill(0, torch.tensor([2]), -100)


def number_buffers(loss: nn.Module) -> dict[str, Tensor]:
    return {name: b for name, b in loss.named_buffers() if b.ndim == 0 and b.is_floating_point()}


# vmap


def test_vmap_over_stacked_hyper_parameters_is_each_loss(
    loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    """Every buffer that is a number may be stacked: losses that differ in it are one computation."""
    first = loss.make(CLASSES, **loss.all_policies(CLASSES))
    losses = [first]
    for factor in (0.75, 0.5):
        other = copy.deepcopy(first)
        for buffer in number_buffers(other).values():
            buffer.mul_(factor)
        losses.append(other)
    parameters, buffers = stack_module_state(losses)
    state = {**parameters, **buffers}
    for target in loss.targets(with_ignored(labels, loss), probabilities):

        def value(state: dict[str, Tensor], z: Tensor, target: Tensor = target) -> Tensor:
            return functional_call(first, state, (z, target))

        values = vmap(value, (0, None))(state, logits)
        gradients = vmap(grad(value, 1), (0, None))(state, logits)
        for i, alone in enumerate(losses):
            expected = alone(logits, target)
            torch.testing.assert_close(values[i], expected, rtol=1e-12, atol=1e-14)
            expected_gradient = torch.autograd.grad(expected, logits)[0]
            torch.testing.assert_close(gradients[i], expected_gradient, rtol=1e-12, atol=1e-14)
        if any(float(buffer) for buffer in number_buffers(first).values()):
            assert values[0] != values[2]


def test_vmap_over_batches_is_each_batch(loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor) -> None:
    made = loss.make(CLASSES, **loss.all_policies(CLASSES))
    for target in loss.targets(with_ignored(labels, loss), probabilities):
        batches = logits.reshape(2, 3, CLASSES), target.reshape(2, 3, *target.shape[1:])
        expected = torch.stack([made(*batch) for batch in zip(*batches, strict=True)])
        torch.testing.assert_close(vmap(made)(*batches), expected, rtol=1e-12, atol=1e-14)


def test_vmap_of_grad_gives_each_images_gradient(
    loss: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    made = loss.make(CLASSES, **loss.all_policies(CLASSES))
    for target in loss.targets(with_ignored(labels, loss), probabilities):
        each = vmap(grad(lambda z, t: made(z[None], t[None])))(logits, target)
        alone = [torch.autograd.grad(made(logits[i : i + 1], target[i : i + 1]), logits)[0][i] for i in range(6)]
        torch.testing.assert_close(each, torch.stack(alone), rtol=1e-12, atol=1e-14)


# torch.compile


def assert_compiles(example: Example, backend: str, logits: Tensor, targets: list[Tensor], rtol: float) -> None:
    """In one graph, with the value and gradient of the uncompiled loss: labels, then each target with all policies."""
    torch.compiler.reset()
    all_policies = example.all_policies(CLASSES)
    for policies, some in (({}, targets[:1]), (all_policies, [with_ignored(target, example) for target in targets])):
        loss = example.make(CLASSES, **policies)
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        for target in some:
            one, other = (logits.detach().clone().requires_grad_() for _ in range(2))
            value, expected = compiled(one, target), loss(other, target)
            torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-12)
            found = [torch.autograd.grad(v, z)[0] for v, z in ((value, one), (expected, other))]
            torch.testing.assert_close(*found, rtol=max(rtol, 2 * torch.finfo(logits.dtype).eps), atol=1e-7)


def test_compiled_it_is_the_same(any_class: Example, logits: Tensor, labels: Tensor, probabilities: Tensor) -> None:
    assert_compiles(any_class, "aot_eager", logits, any_class.targets(labels, probabilities), rtol=1e-12)


@pytest.mark.parametrize(
    "other_form", [Example(AdaptiveFocalLoss, {"rule": "lambert_w"}), Example(DiceLoss, {"squared": True})], ids=str
)
def test_compiled_a_form_that_is_not_the_default_is_the_same(
    other_form: Example, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    assert_compiles(other_form, "aot_eager", logits, [labels, probabilities], rtol=1e-12)


def test_a_compiled_loss_does_not_look_at_the_targets_values(logits: Tensor, probabilities: Tensor) -> None:
    """That would break the graph, and wait for the device."""
    torch.compiler.reset()
    assert torch.compile(CrossEntropyLoss(), fullgraph=True, backend="eager")(logits, 2 * probabilities).isfinite()
    with pytest.raises(ValueError, match="rows that sum to 1"):
        CrossEntropyLoss()(logits, 2 * probabilities)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_compiled_to_machine_code_it_is_the_same(
    any_class: Example, dtype: torch.dtype, logits: Tensor, labels: Tensor, probabilities: Tensor
) -> None:
    logits = logits.detach().to(dtype)
    # A plain module may compute in the dtype that it is given, where compiled code rounds less often.
    rtol = 2e-2 if dtype == torch.bfloat16 and not issubclass(any_class.loss_class, Loss) else 1e-5
    assert_compiles(any_class, "inductor", logits, any_class.targets(labels, probabilities.float()), rtol=rtol)
