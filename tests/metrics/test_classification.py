import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.functional import classification as torchmetrics

from losslab.metrics import classification_metrics, metric_keys

NAMES = ("cat", "dog", "1", "10", "macroeconomy")


def labels_and_predictions(case: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(0, 5, (2, 200), generator=generator)
    if case in ("never predicted", "absent"):
        predicted[predicted == 3] = 0
    if case in ("no example", "absent"):
        labels[labels == 3] = 1
    if case == "one image":
        labels, predicted = labels[:1], predicted[:1]
    if case == "perfect":
        predicted = labels
    return labels, predicted


@pytest.fixture(params=["usual", "never predicted", "no example", "absent", "one image", "perfect"])
def case(request) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and the predictions that the logits stand for."""
    labels, predicted = labels_and_predictions(request.param)
    noise = torch.rand(len(labels), 5, generator=torch.Generator().manual_seed(1))
    return noise + F.one_hot(predicted, 5), labels, predicted


def calibration_error_by_hand(logits: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, equation 3: bin m of 15 holds the confidences in ((m - 1) / 15, m / 15]."""
    bins: list[list[tuple[float, float]]] = [[] for _ in range(15)]
    for row, label in zip(logits.softmax(dim=1), labels, strict=True):
        confidence, predicted = row.max(dim=0)
        right = float(predicted == label)
        bins[math.ceil(float(confidence) * 15) - 1].append((float(confidence), right))
    error = 0.0
    for images in bins:
        if images:
            confidence = sum(image[0] for image in images) / len(images)
            accuracy = sum(image[1] for image in images) / len(images)
            error += len(images) / len(labels) * abs(accuracy - confidence)
    return error


def test_precision_recall_and_accuracy_are_scikit_learns(case):
    logits, labels, predicted = case
    metrics = classification_metrics(logits, labels, NAMES)
    truth = labels.numpy(), predicted.numpy()
    assert metrics["acc"].item() == pytest.approx(accuracy_score(*truth))
    precision, recall, _, _ = precision_recall_fscore_support(*truth, labels=range(5), zero_division=0)
    for c, name in enumerate(NAMES):
        assert metrics[f"precision/{name}"].item() == pytest.approx(precision[c])
        assert metrics[f"recall/{name}"].item() == pytest.approx(recall[c])
    # Without `labels`, scikit-learn's means are over the classes that occur on either side.
    macro = precision_recall_fscore_support(*truth, average="macro", zero_division=0)
    for mean, name in zip(macro, ("precision", "recall", "f1"), strict=False):
        assert metrics[f"{name}/macro"].item() == pytest.approx(mean)


def test_a_class_that_is_never_predicted_has_precision_0_and_counts():
    logits, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    metrics = classification_metrics(logits, labels, ("a", "b"))
    assert metrics["precision/b"] == 0
    assert metrics["recall/b"] == 0
    assert metrics["precision/macro"] == 0.25
    assert metrics["f1/macro"].item() == pytest.approx((2 / 3 + 0) / 2)


def test_a_class_without_examples_has_recall_0_and_counts_if_it_is_predicted():
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    metrics = classification_metrics(logits, labels, ("a", "b"))
    assert metrics["recall/b"] == 0
    assert metrics["precision/b"] == 0
    assert metrics["recall/macro"] == 0.25


def test_a_class_that_does_not_occur_at_all_does_not_count():
    logits, labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1])
    metrics = classification_metrics(logits, labels, ("a", "b", "c"))
    assert metrics["precision/c"] == 0
    assert metrics["recall/c"] == 0
    for name in ("precision", "recall", "f1"):
        assert metrics[f"{name}/macro"] == 1


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0, 100.0])
def test_the_calibration_error_is_that_of_15_bins(scale):
    logits = scale * torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (500,), generator=torch.Generator().manual_seed(1))
    metrics = classification_metrics(logits, labels, NAMES)
    assert metrics["ece"].item() == pytest.approx(calibration_error_by_hand(logits, labels), abs=1e-5)


def test_a_confidence_that_rounds_to_1_belongs_to_the_last_bin():
    """Four images at 0.96 that are right, and one of four at 1 that is wrong, make up for each other there."""
    logits = torch.tensor([[math.log(24), 0.0]] * 4 + [[200.0, 0.0]] * 4)
    labels = torch.tensor([0] * 7 + [1])
    assert logits.softmax(dim=1).amax() == 1
    ece = classification_metrics(logits, labels, ("a", "b"))["ece"].item()
    assert ece == pytest.approx(abs(7 / 8 - (4 * 0.96 + 4) / 8), abs=1e-6)
    assert ece == pytest.approx(calibration_error_by_hand(logits, labels), abs=1e-6)


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not():
    logits = 100 * torch.eye(5)
    assert classification_metrics(logits, torch.arange(5), NAMES)["ece"] < 1e-6
    assert classification_metrics(logits, (torch.arange(5) + 1) % 5, NAMES)["ece"] > 1 - 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_all_are_0_dim_numbers_in_0_to_1_by_exactly_the_metric_keys(case, dtype):
    logits, labels, _ = case
    metrics = classification_metrics(logits.to(dtype), labels, NAMES)
    assert list(metrics) == metric_keys(NAMES)
    for value in metrics.values():
        assert value.shape == ()
        assert 0 <= value <= 1


def test_the_keys_are_the_contracted_ones():
    assert metric_keys(("a", "b")) == [
        "acc",
        "ece",
        "precision/macro",
        "recall/macro",
        "f1/macro",
        "precision/a",
        "precision/b",
        "recall/a",
        "recall/b",
    ]


def test_no_key_is_a_prefix_of_another():
    """A tracker makes folders of them: nothing can be both a folder and a number."""
    keys = metric_keys(NAMES)
    assert len(set(keys)) == len(keys)
    assert not [(one, other) for one, other in permutations(keys, 2) if other.startswith(f"{one}/")]


def test_the_order_of_the_images_is_no_matter(case):
    logits, labels, _ = case
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    one, other = (
        classification_metrics(logits, labels, NAMES),
        classification_metrics(logits[order], labels[order], NAMES),
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_have_no_metrics(case, bad):
    logits, labels, _ = case
    logits = logits.clone()
    logits[-1, 1] = bad
    with pytest.raises(
        ValueError, match=rf"logits must be finite, or -inf for masked classes, .* at {len(logits) - 1}"
    ):
        classification_metrics(logits, labels, NAMES)


def test_a_masked_class_has_metrics(case):
    """A logit of -inf is a probability of 0."""
    logits, labels, _ = case
    masked = logits.index_fill(1, torch.tensor([0]), float("-inf"))
    metrics = classification_metrics(masked, labels, NAMES)
    assert all(value.isfinite() for value in metrics.values())
    assert metrics[f"recall/{NAMES[0]}"] == 0


def numbers_of_torchmetrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The same metrics of logits (N, C), each by the function of torchmetrics that has it."""
    classes = logits.shape[1]
    probabilities = logits.softmax(dim=1).clamp(max=1 - torch.finfo(logits.dtype).eps)
    given = (logits.argmax(dim=1), labels, classes)
    found = {
        "acc": torchmetrics.multiclass_accuracy(*given, average="micro"),
        "ece": torchmetrics.multiclass_calibration_error(probabilities, labels, classes, 15, norm="l1"),
        "f1/macro": torchmetrics.multiclass_f1_score(*given, average="macro"),
    }
    for name in ("precision", "recall"):
        score = getattr(torchmetrics, f"multiclass_{name}")
        found[f"{name}/macro"] = score(*given, average="macro")
        found |= {f"{name}/{c}": value for c, value in enumerate(score(*given, average="none"))}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (700, 10), (300, 130)])
def test_many_predictions_at_once_have_torchmetrics_numbers_of_each_bit_for_bit(images, classes, dtype):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (5, images), generator=generator)
    scale = torch.tensor([0.1, 1, 3, 10, 100], dtype=dtype)[:, None, None]
    logits = scale * (torch.randn(5, images, classes, generator=generator) + F.one_hot(labels, classes)).to(dtype)
    if classes > 2:
        labels[:, ::3] = labels[:, :1]
        labels[labels == 1] = 0  # a class without examples, and one that does not occur
        logits[..., 2] = -torch.inf
    names = list(map(str, range(classes)))
    own, common = classification_metrics(logits, labels, names), classification_metrics(logits, labels[0], names)
    for k in range(5):
        for found, given in ((own, labels[k]), (common, labels[0])):
            expected = numbers_of_torchmetrics(logits[k], given)
            assert {key: float(values[k]) for key, values in found.items()} == {
                k: float(v) for k, v in expected.items()
            }
            alone = classification_metrics(logits[k], given, names)
            assert {key: float(value) for key, value in alone.items()} == {k: float(v) for k, v in expected.items()}


def test_logits_that_are_not_finite_are_named_with_their_member():
    logits = torch.zeros(3, 4, 2)
    logits[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"got \[nan, 0\.0\] at 1, 2$"):
        classification_metrics(logits, torch.zeros(4, dtype=torch.int64), ("a", "b"))
