"""What holds for every loss that is a mean over images; `l(z, t)` is the loss of one image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from losslab.losses import (
    CrossEntropyLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PointwiseLoss,
    PolyLoss,
)

CLASSES = 5
COUNTS = torch.tensor([900, 30, 300, 10, 100])
WEIGHTS = torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0], dtype=torch.float64)
MARGINS = (8, 17, 20, 37, 50, 89, 104, 1e3, 1e4, 6e4)
GAMMAS = (0, 0.1, 0.5, 0.9, 1, 1.5, 2, 5)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class AbsoluteError(PointwiseLoss):
    """1 - p_t: a user's own loss, written as the base's docstring says."""

    def of_label(self, logits: Tensor, label: Tensor) -> Tensor:
        return 1 - logits.softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1)

    def of_every_class(self, logits: Tensor) -> Tensor:
        return 1 - logits.softmax(dim=1)


class LogitAdjustedOnCounts(LogitAdjustedLoss):
    """Logit adjustment that knows its frequencies, as after a model's setup."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.set_class_counts(COUNTS)


class LDAMOnCounts(LDAMLoss):
    """LDAM that knows its frequencies; with another scale than 1."""

    def __init__(self, **arguments) -> None:
        super().__init__(scale=1.7, **arguments)
        self.set_class_counts(COUNTS)


SYMMETRIC = [CrossEntropyLoss, FocalLoss, PolyLoss, GeneralizedCrossEntropyLoss, AbsoluteError]
every_symmetric_loss = pytest.mark.parametrize("loss_class", SYMMETRIC)
every_loss = pytest.mark.parametrize("loss_class", [*SYMMETRIC, LogitAdjustedOnCounts, LDAMOnCounts])
every_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def logits() -> Tensor:
    return (3 * random(6, CLASSES)).requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 1])


@pytest.fixture
def probabilities() -> Tensor:
    return random(6, CLASSES, seed=1).softmax(dim=1)


def assert_same(one: Tensor, other: Tensor, logits: Tensor) -> None:
    """The same value and gradient, to 1e-12."""
    gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (one, other)]
    torch.testing.assert_close((one, gradients[0]), (other, gradients[1]), rtol=1e-12, atol=1e-13)


@every_loss
@every_reduction
@pytest.mark.parametrize("weights", [None, WEIGHTS.tolist()])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_one_hot_target_is_its_label(loss_class, reduction, weights, smoothing, logits, labels):
    loss = loss_class(reduction=reduction, class_weights=weights, label_smoothing=smoothing)
    assert_same(loss(logits, F.one_hot(labels, CLASSES).double()), loss(logits, labels), logits)


@every_loss
@pytest.mark.parametrize("weights", [None, WEIGHTS.tolist()])
def test_a_probability_target_is_an_expectation_over_labels(loss_class, weights, logits, probabilities):
    loss = loss_class(reduction="none", class_weights=weights)
    of_labels = [loss(logits, torch.full((6,), k)) for k in range(CLASSES)]
    assert_same(loss(logits, probabilities), (probabilities * torch.stack(of_labels, dim=1)).sum(dim=1), logits)


@every_loss
@pytest.mark.parametrize("weights", [None, WEIGHTS.tolist()])
def test_smoothing_moves_its_share_of_the_target_to_all_classes(loss_class, weights, logits, labels, probabilities):
    smooth = loss_class(reduction="none", class_weights=weights, label_smoothing=0.2)
    plain = loss_class(reduction="none", class_weights=weights)
    for target in (labels, probabilities):
        spread = F.one_hot(labels, CLASSES).double() if target is labels else probabilities
        assert_same(smooth(logits, target), plain(logits, 0.8 * spread + 0.2 / CLASSES), logits)


@every_loss
def test_reductions_are_those_of_the_images_losses(loss_class, logits, labels, probabilities):
    for target in (labels, probabilities):
        each = loss_class(reduction="none")(logits, target)
        assert each.shape == (6,)
        assert_same(loss_class(reduction="mean")(logits, target), each.mean(), logits)
        assert_same(loss_class(reduction="sum")(logits, target), each.sum(), logits)


@every_loss
def test_the_mean_is_weighted(loss_class, logits, labels, probabilities):
    """sum_i w_i l_i / sum_i w_i: images of a class with twice the weight count twice, and the scale is no matter."""
    weights = WEIGHTS.tolist()
    for target, image_weights in ((labels, WEIGHTS[labels]), (probabilities, probabilities @ WEIGHTS)):
        each = loss_class(reduction="none", class_weights=weights)(logits, target)
        mean = loss_class(class_weights=weights)(logits, target)
        assert_same(mean, each.sum() / image_weights.sum(), logits)
        assert_same(loss_class(class_weights=[10 * w for w in weights])(logits, target), mean, logits)


@every_loss
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_linear_in_the_class_weights(loss_class, smoothing, logits, labels, probabilities):
    def loss(weights: Tensor, target: Tensor) -> Tensor:
        return loss_class(reduction="none", class_weights=weights.tolist(), label_smoothing=smoothing)(logits, target)

    more = torch.tensor([1.0, 0.0, 4.0, 2.0, 0.5], dtype=torch.float64)
    for target in (labels, probabilities):
        assert_same(loss(2 * WEIGHTS + more, target), 2 * loss(WEIGHTS, target) + loss(more, target), logits)


@every_loss
@pytest.mark.parametrize("shift", [-1000.0, 1.5, 1000.0])
def test_adding_a_number_to_all_logits_of_an_image_changes_nothing(loss_class, shift, logits, labels, probabilities):
    for target in (labels, probabilities):
        loss = loss_class(reduction="none", label_smoothing=0.1)
        torch.testing.assert_close(loss(logits + shift, target), loss(logits, target), rtol=1e-11, atol=1e-12)
        (gradient,) = torch.autograd.grad(loss(logits, target).sum(), logits)
        torch.testing.assert_close(gradient.sum(dim=1), torch.zeros(6).double(), rtol=0, atol=1e-14)


@every_symmetric_loss
def test_the_order_of_classes_and_images_is_no_matter(loss_class, logits, labels, probabilities):
    classes, images = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    loss = loss_class(reduction="none", class_weights=WEIGHTS.tolist(), label_smoothing=0.1)
    permuted = loss_class(reduction="none", class_weights=WEIGHTS[classes].tolist(), label_smoothing=0.1)
    where = classes.argsort()
    moved = logits[images][:, classes]
    assert_same(permuted(moved, where[labels[images]]), loss(logits, labels)[images], logits)
    assert_same(permuted(moved, probabilities[images][:, classes]), loss(logits, probabilities)[images], logits)


@every_loss
@pytest.mark.parametrize("saturated", [False, True])
def test_first_and_second_derivatives_are_those_of_the_values(loss_class, saturated, logits, labels, probabilities):
    at = (logits * 8 if saturated else logits).detach().requires_grad_()
    loss = loss_class(class_weights=WEIGHTS.tolist(), label_smoothing=0.1)
    for target in (labels, probabilities):
        assert torch.autograd.gradcheck(lambda z, t=target: loss(z, t), at)
        assert torch.autograd.gradgradcheck(lambda z, t=target: loss(z, t), at)


AT_EXTREMES = [
    CrossEntropyLoss("none"),
    *(FocalLoss(gamma, "none") for gamma in GAMMAS),
    *(PolyLoss(epsilon, "none") for epsilon in (-1, 0.5, 2)),
    *(GeneralizedCrossEntropyLoss(q, "none") for q in (0.01, 0.7, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", AT_EXTREMES, ids=repr)
@pytest.mark.parametrize("kind", ["label", "one-hot", "soft"])
def test_extreme_logits_give_finite_loss_gradient_and_hessian(dtype, loss, kind):
    """Class 0 is above (first half) or below (second half) two others by each margin; 0 is the target."""
    margins = torch.tensor([*MARGINS, *(-m for m in MARGINS)], dtype=dtype)
    logits = torch.stack([margins, torch.zeros_like(margins), torch.zeros_like(margins)], dim=1).requires_grad_()
    labels = torch.zeros(len(margins), dtype=torch.int64)
    soft = torch.tensor([[0.75, 0.25, 0.0]]).expand(len(margins), -1)
    target = {"label": labels, "one-hot": F.one_hot(labels, 3).to(dtype), "soft": soft}[kind]

    value = loss(logits, target)
    assert value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    assert gradient.isfinite().all()
    for k in range(3):
        (hessian_row,) = torch.autograd.grad(gradient[:, k].sum(), logits, retain_graph=True)
        assert hessian_row.isfinite().all()

    right, wrong = gradient[: len(MARGINS)], gradient[len(MARGINS) :]
    if kind != "soft":
        assert (value[: len(MARGINS)] < 3e-3).all()
        assert right.abs().max() < 2e-2
        if not isinstance(loss, GeneralizedCrossEntropyLoss):  # which lets go of hopeless images on purpose
            assert (wrong[:, 0] <= -0.99).all()  # a hopeless image keeps pulling
            assert (wrong[:, 1:].sum(dim=1) >= 0.99).all()


@pytest.mark.parametrize("loss", [CrossEntropyLoss("none"), *(FocalLoss(g, "none") for g in GAMMAS)], ids=repr)
def test_classes_masked_by_minus_infinity_are_as_if_they_were_not_there(loss):
    """Also when the target is the only class left."""
    inf = float("inf")
    logits = torch.tensor([[1.0, -inf, 0.5, -inf], [-1.0, -inf, 30.0, -inf], [2.0, -inf, -inf, -inf]])
    logits.requires_grad_()
    labels = torch.tensor([0, 0, 0])
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    kept = logits[:2, [0, 2]]
    torch.testing.assert_close(value[:2], loss(kept, labels[:2]))
    assert value[2] == 0
    assert gradient.isfinite().all()
    assert (gradient[:, [1, 3]] == 0).all()
    assert (gradient[2] == 0).all()
    assert second.isfinite().all()


@every_loss
def test_vmap_of_grad_gives_each_images_gradient(loss_class, logits, labels, probabilities):
    loss = loss_class(class_weights=WEIGHTS.tolist(), label_smoothing=0.1)
    for target in (labels, probabilities):
        each = vmap(grad(lambda z, t: loss(z[None], t[None])))(logits, target)
        alone = [torch.autograd.grad(loss(logits[i : i + 1], target[i : i + 1]), logits)[0][i] for i in range(6)]
        torch.testing.assert_close(each, torch.stack(alone), rtol=1e-12, atol=1e-14)


@every_loss
def test_inputs_stay_as_they_are(loss_class, logits, probabilities):
    before = logits.clone(), probabilities.clone()
    loss_class(class_weights=WEIGHTS.tolist(), label_smoothing=0.1)(logits, probabilities).backward()
    torch.testing.assert_close((logits, probabilities), before, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_smoothing_outside_0_to_1_is_refused(loss_class, smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing must be in \[0, 1\), got {smoothing}"):
        loss_class(label_smoothing=smoothing)
