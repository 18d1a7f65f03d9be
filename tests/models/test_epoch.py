"""The numbers of an epoch, for one classifier and for several at once."""

import math

import pytest
import torch

from losslab.errors import UserError, notice_once
from losslab.losses import CrossEntropyLoss, FocalLoss
from losslab.metrics import classification_metrics, metric_keys
from losslab.models import (
    EpochTally,
    NonFiniteLossError,
    population_metrics,
    require_finite,
    running_metrics,
    split_metrics,
)

NAMES = ("a", "b", "c")


def batches(sizes: list[int], *leading: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Loss (...), logits (..., B, 3) and labels (..., B) of each batch."""
    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.rand(leading, generator=random),
            torch.randn(*leading, size, 3, generator=random),
            torch.randint(3, (*leading, size), generator=random),
        )
        for size in sizes
    ]


@pytest.mark.parametrize("leading", [(), (2,), (5,)], ids=str)
def test_running_numbers_are_means_over_the_images_of_batches_of_any_size(leading: tuple[int, ...]) -> None:
    tally, sizes = EpochTally(), [64, 64, 8]
    for batch in (given := batches(sizes, *leading)):
        tally.add(*batch)
    metrics = running_metrics(tally.sums())
    loss = sum(loss.double() * size for (loss, _, _), size in zip(given, sizes, strict=True)) / 136
    logits, labels = torch.cat([part[1] for part in given], dim=-2), torch.cat([part[2] for part in given], dim=-1)
    accuracy = (logits.argmax(dim=-1) == labels).double().mean(dim=-1)
    assert metrics.keys() == {"train/loss", "train/acc_running"}
    torch.testing.assert_close(metrics["train/loss"], loss)
    torch.testing.assert_close(metrics["train/acc_running"], accuracy)
    assert tally.by_step().shape == (2, *leading, 3)


def test_a_population_tallies_what_each_member_tallies_alone() -> None:
    together, alone = EpochTally(), [EpochTally() for _ in range(4)]
    for loss, logits, labels in batches([6, 6, 1], 4):
        together.add(loss, logits, labels)
        for k, tally in enumerate(alone):
            tally.add(loss[k], logits[k], labels[k])
    torch.testing.assert_close(together.sums(), torch.stack([tally.sums() for tally in alone], dim=1))  # (3, 4)


def test_a_split_has_its_loss_and_every_metric_under_the_prefix() -> None:
    ((_, logits, labels),) = batches([30])
    metrics = split_metrics(CrossEntropyLoss(), logits, labels, NAMES, "test", 3)
    assert [*metrics] == ["test/loss", *(f"test/{key}" for key in metric_keys(NAMES))]
    assert metrics["test/loss"] == CrossEntropyLoss()(logits, labels)
    assert metrics["test/acc"] == (logits.argmax(dim=1) == labels).float().mean()


@pytest.mark.parametrize(("prefix", "split"), [("val", "validation"), ("test", "test")])
def test_a_split_whose_loss_or_before_a_training_whose_logits_are_not_finite_is_named(prefix: str, split: str) -> None:
    ((_, logits, labels),) = batches([30])
    logits[0, 0] = math.nan
    with pytest.raises(NonFiniteLossError, match=f"became nan in the {split} split after epoch 3, step 0"):
        split_metrics(CrossEntropyLoss(), logits, labels, NAMES, prefix, 3)
    with pytest.raises(NonFiniteLossError, match=f"the logits became nan in the {split} split, step 0"):
        split_metrics(CrossEntropyLoss(), logits, labels, NAMES, prefix, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_first_loss_that_is_not_finite_is_named(bad, step):
    losses = torch.ones(5)
    losses[step:] = bad
    with pytest.raises(NonFiniteLossError, match=rf"the loss FocalLoss\(\) became {bad} in epoch 3, step {step}\."):
        require_finite(losses, "FocalLoss()", "epoch 3")


def test_finite_losses_pass():
    finite = torch.tensor([0.0, -1.0, torch.finfo(torch.float32).max])
    assert require_finite(finite, "CrossEntropyLoss()", "epoch 0") is None


def test_it_is_an_error_of_the_user():
    """So the command line shows it as a message, without a traceback."""
    assert issubclass(NonFiniteLossError, UserError)


@pytest.mark.parametrize("leading", [(), (3,)], ids=str)
def test_ignored_images_count_neither_as_correct_nor_in_a_batchs_weight(leading: tuple[int, ...]) -> None:
    """As if each batch had only its other images: so a batch's loss weighs as many as it has of them."""
    tally, sizes = EpochTally(), [40, 8]
    for batch in (given := batches(sizes, *leading)):
        tally.add(*batch, ignored=2)
    kept = [labels != 2 for _, _, labels in given]
    images = sum(part.sum(-1) for part in kept)
    loss = sum(loss.double() * part.sum(-1) for (loss, _, _), part in zip(given, kept, strict=True)) / images
    correct = sum(((z.argmax(-1) == t) & part).sum(-1) for (_, z, t), part in zip(given, kept, strict=True))
    metrics = running_metrics(tally.sums())
    torch.testing.assert_close(metrics["train/loss"], loss)
    torch.testing.assert_close(metrics["train/acc_running"], correct.double() / images)


def test_an_epoch_or_a_split_of_ignored_images_only_is_refused() -> None:
    tally = EpochTally()
    tally.add(torch.tensor(0.0), torch.zeros(4, 3), torch.full((4,), 2), ignored=2)
    with pytest.raises(UserError, match="all training images have the label that the loss ignores"):
        running_metrics(tally.sums())
    with pytest.raises(UserError, match="all validation images have the label that the loss ignores"):
        split_metrics(CrossEntropyLoss(ignore_index=2), torch.zeros(4, 3), torch.full((4,), 2), NAMES, "val", 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_named_with_their_step_unless_the_image_is_ignored(bad: float) -> None:
    tally, ignoring = EpochTally(), EpochTally()
    for step, (loss, logits, labels) in enumerate(batches([6, 6, 6])):
        if step == 1:
            logits[2, 1], labels[2] = bad, 2
        tally.add(loss, logits, labels)
        ignoring.add(loss, logits, labels, ignored=2)
    with pytest.raises(NonFiniteLossError, match=rf"the logits became {bad} in epoch 0, step 1\."):
        require_finite(tally.by_step()[0], "loss", "epoch 0", tally.by_step()[1])
    require_finite(ignoring.by_step()[0], "loss", "epoch 0", ignoring.by_step()[1])


def test_half_precision_logits_are_summed_without_overflow() -> None:
    tally = EpochTally()
    tally.add(torch.tensor(0.0), torch.full((256, 3), 6e4, dtype=torch.float16), torch.zeros(256, dtype=torch.int64))
    require_finite(tally.by_step()[0], "loss", "epoch 0", tally.by_step()[1])


def test_a_tally_of_an_earlier_version_goes_on() -> None:
    """It has no `top_logits`: its steps are taken as finite, and the next ones keep their numbers."""
    tally = EpochTally([torch.tensor(0.5)] * 2, [torch.tensor(3)] * 2, [6, 6])
    (batch,) = batches([6])
    tally.add(*batch)
    assert tally.by_step().shape == (2, 3)


class WrongLoss(torch.nn.Module):
    """Raises an error of its own."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such class")


LOSSES = [CrossEntropyLoss(), FocalLoss(2), torch.nn.CrossEntropyLoss(), CrossEntropyLoss(ignore_index=1), FocalLoss()]


@pytest.mark.parametrize("own_labels", [True, False], ids=["labels of each", "common labels"])
def test_a_population_has_the_metrics_of_each_member_bit_for_bit(own_labels: bool) -> None:
    ((_, logits, labels),) = batches([300], len(LOSSES))
    labels = labels if own_labels else labels[0]
    expected = [
        split_metrics(loss, logits[k], labels[k] if own_labels else labels, NAMES, "val", 3)
        for k, loss in enumerate(LOSSES)
    ]
    found = population_metrics(LOSSES, logits, labels, NAMES, "val", 3)
    assert found == [{key: float(value) for key, value in metrics.items()} for metrics in expected]


def test_the_split_of_a_population_is_counted_once_however_many_members_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[tuple[int, ...]] = []

    def count(logits: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        counted.append(tuple(logits.shape))
        return classification_metrics(logits, labels, names)

    monkeypatch.setattr("losslab.models.epoch.classification_metrics", count)
    for members in (2, 30):
        ((_, logits, labels),) = batches([20], members)
        population_metrics([CrossEntropyLoss()] * members, logits, labels, NAMES, "val", 0)
    assert counted == [(2, 20, 3), (30, 20, 3)]


def test_the_error_of_a_member_is_its_own_and_the_one_that_it_raises_alone() -> None:
    ((_, logits, labels),) = batches([30], 6)
    losses = [CrossEntropyLoss(), WrongLoss(), CrossEntropyLoss(ignore_index=2), *[CrossEntropyLoss()] * 3]
    labels[2] = 2
    logits[3, 0, 0] = math.nan
    logits[4, 0, labels[4, 0]] = -math.inf  # the loss alone is infinite
    found = population_metrics(losses, logits, labels, NAMES, "val", 3)
    for k, loss in enumerate(losses):
        if k in (0, 5):
            alone = split_metrics(loss, logits[k], labels[k], NAMES, "val", 3)
            assert found[k] == {key: float(value) for key, value in alone.items()}
            continue
        with pytest.raises((KeyError, UserError)) as raised:
            split_metrics(loss, logits[k], labels[k], NAMES, "val", 3)
        assert isinstance(error := found[k], type(raised.value))
        assert str(error) == str(raised.value)
    assert isinstance(found[3], NonFiniteLossError)
    assert isinstance(found[4], NonFiniteLossError)


@pytest.mark.parametrize("of_one", [True, False])
def test_probabilities_in_place_of_logits_are_noticed_in_a_population_too(
    of_one: bool, caplog: pytest.LogCaptureFixture
) -> None:
    notice_once.cache_clear()
    ((_, logits, labels),) = batches([30], 3)
    if of_one:
        logits[1] = logits[1].softmax(dim=-1)
    population_metrics([CrossEntropyLoss()] * 3, logits, labels, NAMES, "val", 3)
    assert ("returns probabilities" in caplog.text) == of_one
