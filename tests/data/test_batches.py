import json
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from scipy.stats import kstest
from torch import Tensor

from losslab.data import Augmentation, EpochOrder, EvaluationBatches, LabelledImages, TrainingBatches, long_tail
from losslab.data.labelled_images import Split


def numbered(size: int) -> LabelledImages:
    """Images of random pixels, but image k has k in its first pixel and k as its label."""
    images = torch.randint(0, 256, (size, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(size)
    return LabelledImages(images, torch.arange(size))


def scale(images: Tensor) -> Tensor:
    return images.float() / 255


def training_batches(
    size: int = 23, batch_size: int = 4, seed: int = 0, rank: int = 0, world_size: int = 1, augmentation=None
) -> TrainingBatches:
    order = EpochOrder(size, seed, rank, world_size)
    return TrainingBatches(numbered(size).whole(), batch_size, scale, order, augmentation)


def labels_of_epoch(batches: TrainingBatches, epoch: int = 0) -> list[list[int]]:
    batches.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels in batches]


def assert_same_batches(batches, expected) -> None:
    batches = list(batches)
    assert len(batches) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


# The order of an epoch


def test_the_order_is_a_function_of_seed_and_epoch_and_of_nothing_else():
    orders = {}
    for attempt in range(2):
        torch.manual_seed(attempt)
        np.random.seed(attempt)
        for seed in range(4):
            order = EpochOrder(50, seed)
            for epoch in (3, 0, 2, 1) if attempt else range(4):
                order.set_epoch(epoch)
                indices = order.indices()
                assert torch.equal(orders.setdefault((seed, epoch), indices), indices)
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders.values())
    assert not any(torch.equal(one, other) for one, other in combinations(orders.values(), 2))


@pytest.mark.parametrize(("size", "world_size"), [(12, 1), (12, 3), (13, 3), (14, 3), (5, 5), (9, 5)])
def test_ranks_share_an_epoch_evenly_and_no_image_comes_twice(size, world_size):
    orders = [EpochOrder(size, 0, rank, world_size) for rank in range(world_size)]
    shares = [order.indices().tolist() for order in orders]
    assert {len(share) for share in shares} == {len(order) for order in orders} == {size // world_size}
    together = list(chain(*shares))
    assert len(set(together)) == len(together) == size - size % world_size
    assert set(together) <= set(range(size))


def test_nobody_sits_out_every_epoch():
    seen = set()
    for epoch in range(20):
        for rank in range(3):
            order = EpochOrder(5, 0, rank, 3)
            order.set_epoch(epoch)
            seen |= set(order.indices().tolist())
    assert seen == set(range(5))


def test_the_draws_are_a_function_of_seed_and_epoch_uniform_and_independent():
    drawn = []
    for seed in range(3):
        order = EpochOrder(500, seed)
        for epoch in range(4):
            order.set_epoch(epoch)
            np.random.seed(epoch)
            draws = order.draws()
            assert (draws.shape, draws.dtype) == ((4, 500), torch.float32)
            assert torch.equal(draws, order.draws())
            drawn.append(draws)
    rows = torch.cat(drawn).double()  # (48, 500)
    assert kstest(rows.flatten().numpy(), "uniform", (-1, 2)).pvalue > 0.001
    # Of independent rows of 500 a correlation has a standard deviation of 0.045, and these are 1128.
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.22


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_draws_of_all_ranks_are_those_of_one_process(world_size):
    ranks = [EpochOrder(23, 0, rank, world_size) for rank in range(world_size)]
    alone = EpochOrder(23, 0)
    of_image = dict(zip(alone.indices().tolist(), alone.draws().T, strict=True))
    for order in ranks:
        for image, own in zip(order.indices().tolist(), order.draws().T, strict=True):
            assert torch.equal(own, of_image[image])


def test_order_draws_and_what_makes_data_harder_come_from_streams_of_their_own():
    """Long tail, label noise and class ranks draw from [seed, 1..5]; so no epoch may be equal to one of them."""
    states = [[seed, epoch, stream] for seed in range(8) for epoch in range(8) for stream in (1, 2)]
    states += [[seed, stream] for seed in range(8) for stream in range(1, 7)]
    first = {tuple(np.random.SeedSequence(state).generate_state(2)) for state in states}
    assert len(first) == len(states)


# Batches


@pytest.mark.parametrize(("size", "batch_size"), [(23, 4), (24, 4), (24, 24), (24, 100), (5, 1)])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_every_image_comes_exactly_once_an_epoch(kind, size, batch_size):
    if kind == "training":
        batches = training_batches(size, batch_size)
    else:
        batches = EvaluationBatches(numbered(size).whole(), batch_size, scale)
    for _ in range(2):
        labels = [labels for _, labels in batches]
        assert [len(part) for part in labels[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(labels) == len(batches)
        assert sorted(torch.cat(labels).tolist()) == list(range(size))


def test_evaluation_leaves_the_images_in_their_order():
    batches = EvaluationBatches(numbered(23).whole(), 4, scale)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(23))


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_images_keep_their_labels_and_arrive_as_scaled_floats(kind):
    split = numbered(23)
    batches = training_batches() if kind == "training" else EvaluationBatches(split.whole(), 4, scale)
    for images, labels in batches:
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(images, scale(split.images[labels]))


def test_no_two_epochs_have_the_same_batches():
    batches = training_batches()
    epochs = [labels_of_epoch(batches, epoch) for epoch in range(5)]
    assert not any(one == other for one, other in combinations(epochs, 2))
    assert labels_of_epoch(batches, 2) == epochs[2]


@pytest.mark.parametrize(("size", "world_size"), [(24, 2), (23, 2), (23, 3), (107, 4)])
def test_the_batches_of_all_ranks_together_are_those_of_one_process(size, world_size):
    ranks = [training_batches(size, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        alone = labels_of_epoch(training_batches(size, 4 * world_size), epoch)
        shares = [labels_of_epoch(rank, epoch) for rank in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])}
        together = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
        left_out = set(range(size)) - set(chain(*together))
        assert len(left_out) == size % world_size
        expected = [set(batch) - left_out for batch in alone]
        assert [set(batch) for batch in together] == [batch for batch in expected if batch]


def test_augmentation_changes_every_image_of_every_epoch_by_numbers_of_its_own():
    change = Augmentation()
    plain, augmented = training_batches(), training_batches(augmentation=change)
    drawn = []
    for epoch in range(2):
        plain.sampler.set_epoch(epoch)
        augmented.sampler.set_epoch(epoch)
        transforms = change.transforms(augmented.sampler.draws(), 4, 4).split(4)  # a batch each
        for (before, labels), (after, same_labels), own in zip(plain, augmented, transforms, strict=True):
            assert torch.equal(labels, same_labels)
            assert not torch.equal(before, after)
            assert torch.equal(after, change(before, own))
        drawn += torch.cat(transforms).flatten(1).tolist()
    assert len(set(map(tuple, drawn))) == 2 * 23


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_batches_of_a_split_are_those_of_its_own_images(kind):
    """Which lie anywhere among all images, and have the split's labels."""
    every = numbered(23)
    positions = long_tail(every.labels % 2, 2, 0.5, [0, 1], seed=0)
    split = Split(every.images, positions, 100 + positions)
    own = LabelledImages(every.images[positions], 100 + positions)
    for change in (None, Augmentation()):
        if kind == "training":
            order = EpochOrder(len(positions), 0)
            pair = [TrainingBatches(part, 4, scale, order, change) for part in (split, own.whole())]
        else:
            pair = [EvaluationBatches(part, 4, scale) for part in (split, own.whole())]
        assert_same_batches(pair[0], list(pair[1]))


# Going on within an epoch


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["plain", "augmented"])
@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_a_resumed_epoch_yields_exactly_the_remaining_batches(done, augmentation):
    whole = training_batches(augmentation=augmentation)
    whole.sampler.set_epoch(2)
    expected = list(whole)
    assert len(expected) == 6

    stopped = training_batches(augmentation=augmentation)
    stopped.sampler.set_epoch(2)
    going = iter(stopped)
    for _ in range(done):
        next(going)
    state = json.loads(json.dumps(stopped.state_dict()))

    resumed = training_batches(augmentation=augmentation)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(2)
    assert_same_batches(resumed, expected[done:])
    whole.sampler.set_epoch(3)
    resumed.sampler.set_epoch(3)
    assert_same_batches(resumed, list(whole))


def test_a_state_serves_one_epoch_only():
    batches = training_batches()
    batches.load_state_dict({"epoch": 0, "batches_done": 4})
    assert len(list(batches)) == 2
    assert len(list(batches)) == 6


@pytest.mark.parametrize("asked", [0, 1])
def test_a_state_from_a_finished_epoch_skips_nothing(asked):
    finished = training_batches()
    list(finished)
    resumed = training_batches()
    resumed.load_state_dict(finished.state_dict())
    assert labels_of_epoch(resumed, asked) == labels_of_epoch(training_batches(), asked)


def test_a_state_from_an_epoch_cut_short_does_not_skip_in_the_next():
    cut_short = training_batches()
    next(iter(cut_short))
    cut_short.sampler.set_epoch(1)
    resumed = training_batches()
    resumed.load_state_dict(cut_short.state_dict())
    assert labels_of_epoch(resumed, 1) == labels_of_epoch(training_batches(), 1)


def test_a_state_survives_being_saved_again_before_the_first_batch():
    state = {"epoch": 2, "batches_done": 3}
    batches = training_batches()
    batches.load_state_dict(state)
    assert batches.state_dict() == state


class Recorder(LightningModule):
    """Notes the labels of each batch, and saves a checkpoint behind one of them."""

    def __init__(self, save_behind: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.save_behind = save_behind
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch[1].tolist()))
        return self.weight

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == self.save_behind:
            self.trainer.save_checkpoint("saved.ckpt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("save_behind", [(0, 0), (1, 2), (1, 5), (2, 4)])
def test_lightning_tells_the_epoch_and_resumes_behind_the_saved_batch(save_behind):
    def fit(model: Recorder, checkpoint: str | None = None) -> Recorder:
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, training_batches(), ckpt_path=checkpoint)
        return model

    whole = fit(Recorder(save_behind)).seen
    assert whole == [(epoch, labels) for epoch in range(3) for labels in labels_of_epoch(training_batches(), epoch)]
    epoch, batch = save_behind
    assert fit(Recorder(), "saved.ckpt").seen == whole[6 * epoch + batch + 1 :]


def test_a_last_batch_of_a_single_image_is_left_out():
    assert [len(part) for part in labels_of_epoch(training_batches(9, 4), 0)] == [4, 4]
    assert [len(part) for part in labels_of_epoch(training_batches(10, 4), 0)] == [4, 4, 2]
    assert [len(part) for part in labels_of_epoch(training_batches(3, 1), 0)] == [1, 1, 1]
    assert [len(part) for part in labels_of_epoch(training_batches(1, 4), 0)] == [1]
