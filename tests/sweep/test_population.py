"""Members of a population are what they would be alone."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from operations import Operations
from own_steps import CountsAtStart, Lion, Private, ReadsValues
from tiny_digits import TinyDigits
from torch import Tensor, nn

from losslab.data import Augmentation
from losslab.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    LogitAdjustedLoss,
    build_loss,
)
from losslab.metrics import classification_metrics
from losslab.models import CNN, MLP, Classifier, NonFiniteLossError, ResNet, SeparableCNN
from losslab.sweep import Population, PopulationData
from losslab.sweep.eligibility import TrainAloneError

# Seed, gamma, learning rate, weight decay.
MEMBERS = [(0, 0.0, 0.01, 0.0), (1, 5.0, 0.003, 1e-3), (2, 2.0, 0.005, 0.0), (0, 0.5, 0.005, 1e-2)]

Build = Callable[..., Classifier]

Digits = functools.partial(TinyDigits, split_seed=0)
"""The same images for all seeds."""

STUDY_OF_LOSSES = Path(__file__).parents[2] / "sweeps" / "losses.yaml"


def trainer(epochs: int, precision: Any = "64-true", callbacks: Sequence[Callback] = ()) -> Trainer:
    return Trainer(
        max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", precision=precision, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


def adam(lr: float, weight_decay: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr, weight_decay=weight_decay)


def member(build: Build, seed: int, gamma: float, lr: float, weight_decay: float) -> Classifier:
    torch.manual_seed(seed)
    return build(loss=FocalLoss(gamma), optimizer=adam(lr, weight_decay))


def train_alone(model: Classifier, data: TinyDigits, epochs: int) -> dict[str, float]:
    alone = trainer(epochs)
    alone.fit(model, data)
    return {key: float(value) for key, value in alone.callback_metrics.items()}


def of_seeds(data: TinyDigits, seeds: Sequence[int]) -> list[TinyDigits]:
    """The data module with each of the seeds, one for members of one seed."""
    datas = {seed: copy.copy(data) for seed in seeds}
    for seed, own in datas.items():
        own.seed = seed
    return [datas[seed] for seed in seeds]


def train_together(models: list[Classifier], seeds: list[int], data: TinyDigits, epochs: int) -> Population:
    population = Population(models)
    trainer(epochs).fit(population, PopulationData(of_seeds(data, seeds)))
    return population


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    """To 1e-8; batch norm's means to 1e-6.

    Pixels that are the same in every image act on them as a bias before the norm would: their weights' true gradient is
    0, and Adam makes steps of its rounding noise.
    """
    trained = dict(one.named_parameters())
    for (name, tensor), same in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(
            tensor, same, rtol=0, atol=1e-8 if name in trained else 1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


ARCHITECTURES: dict[str, Build] = {
    "MLP": lambda **rest: MLP((10,), **rest),
    "MLP with batch norm": lambda **rest: MLP((20, 20), batch_norm=True, **rest),
    "CNN": lambda **rest: CNN((4, 6, 8), dropout=0.0, **rest),
    "SeparableCNN": lambda **rest: SeparableCNN((4, 6, 8), dropout=0.0, **rest),
    "ResNet": lambda **rest: ResNet((4, 6, 8), **rest),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop .* aten..as_strided_")  # of global average pooling
@pytest.mark.parametrize("build", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_after_50_steps_weights_and_metrics_are_those_of_solo_trainings(build: Build) -> None:
    """Of four members with their own gamma, learning rate, weight decay, start and order; also of the statistics."""
    together = train_together([member(build, *m) for m in MEMBERS], [m[0] for m in MEMBERS], Digits(batch_size=20), 5)
    for k, own in enumerate(MEMBERS):
        model = member(build, *own)
        metrics = train_alone(model, Digits(batch_size=20, seed=own[0]), 5)
        assert_same_weights(together.members[k], model)
        assert together.metrics[k] == pytest.approx(metrics, abs=1e-7)


def test_two_gammas_are_two_trainings() -> None:
    """A gamma that members shared silently would give one of them the other's weights."""
    build = ARCHITECTURES["MLP"]
    pair = [member(build, 0, gamma, 0.01, 0.0) for gamma in (0.0, 5.0)]
    together = train_together(pair, [0, 0], Digits(batch_size=20), 5)
    for gamma, trained in zip((0.0, 5.0), together.members, strict=True):
        model = member(build, 0, gamma, 0.01, 0.0)
        train_alone(model, Digits(batch_size=20, seed=0), 5)
        assert_same_weights(trained, model)
    weights = [trained.state_dict()["network.1.weight"] for trained in together.members]
    assert (weights[0] - weights[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, 0.01, fused=True),
        lambda p: torch.optim.RMSprop(p, 0.001),
    ],
    ids=["SGD", "fused AdamW", "RMSprop"],
)
def test_any_optimiser_is_each_members_own(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    def build(seed: int) -> Classifier:
        torch.manual_seed(seed)
        return MLP((10,), optimizer=optimizer)

    together = train_together([build(0), build(1)], [0, 1], Digits(batch_size=20), 3)
    for seed, trained in enumerate(together.members):
        model = build(seed)
        train_alone(model, Digits(batch_size=20, seed=seed), 3)
        assert_same_weights(trained, model)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=40),
    ],
)
def test_a_schedule_is_each_members_own(schedule: Callable[[Any], Any]) -> None:
    def build(seed: int) -> Classifier:
        torch.manual_seed(seed)
        return MLP((10,), optimizer=adam(0.01 * (seed + 1), 0.0), lr_scheduler=schedule)

    together = train_together([build(0), build(1)], [0, 1], Digits(batch_size=20), 4)
    for seed, trained in enumerate(together.members):
        model = build(seed)
        train_alone(model, Digits(batch_size=20, seed=seed), 4)
        assert_same_weights(trained, model)


@pytest.mark.parametrize(
    "loss", [lambda: CrossEntropyLoss(label_smoothing=0.125), DiceLoss, LogitAdjustedLoss, nn.CrossEntropyLoss]
)
def test_any_loss_sees_its_own_members_batch_and_the_class_frequencies(loss: Callable[[], nn.Module]) -> None:
    def build(seed: int) -> Classifier:
        torch.manual_seed(seed)
        return MLP((10,), loss=loss(), optimizer=adam(0.01, 0.0))

    together = train_together([build(0), build(1)], [0, 0], Digits(batch_size=20, imbalance=0.2), 3)
    for seed, trained in enumerate(together.members):
        model = build(seed)
        train_alone(model, Digits(batch_size=20, imbalance=0.2), 3)
        assert_same_weights(trained, model)


def test_images_that_the_loss_ignores_are_in_no_members_metrics() -> None:
    def build(seed: int) -> Classifier:
        torch.manual_seed(seed)
        return MLP((10,), loss=CrossEntropyLoss(ignore_index=3), optimizer=adam(0.01, 0.0))

    together = train_together([build(0), build(1)], [0, 1], Digits(batch_size=20), 2)
    for seed, trained in enumerate(together.members):
        model = build(seed)
        assert together.metrics[seed] == pytest.approx(train_alone(model, Digits(batch_size=20, seed=seed), 2))
        assert torch.equal(trained.evaluated[1], model.evaluated[1])
        assert -1 in trained.evaluated[1]


def test_a_member_whose_logits_are_infinite_at_a_finite_loss_fails_alone() -> None:
    class Overflows(MLP):
        def forward(self, images: Tensor) -> Tensor:
            overflows = (self.loss.q == 1) & (torch.arange(10) == 0)  # (C,)
            return torch.where(overflows, torch.inf, super().forward(images))

    models = [Overflows((10,), loss=GeneralizedCrossEntropyLoss(q), optimizer=adam(0.01, 0.0)) for q in (0.5, 1.0)]
    together = train_together(models, [0, 0], Digits(batch_size=20), 1)
    assert together.stopped == {1}
    assert str(together.failures[1]).startswith("the logits became inf in epoch 0, step 0.")


def test_each_member_sees_its_own_augmentation() -> None:
    arguments = {"batch_size": 20, "augmentation": Augmentation(shift=2.0)}
    build = ARCHITECTURES["MLP"]
    together = train_together([member(build, s, 1.0, 0.01, 0.0) for s in (3, 4)], [3, 4], Digits(**arguments), 2)
    for seed, trained in zip((3, 4), together.members, strict=True):
        model = member(build, seed, 1.0, 0.01, 0.0)
        train_alone(model, Digits(seed=seed, **arguments), 2)
        assert_same_weights(trained, model)


class Breaks(FocalLoss):
    """NaN where gamma is 3. Gamma is a buffer, so that members with other values stay compatible."""

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return super().per_image(logits, label) * torch.where(self.gamma == 3, torch.nan, 1.0)


def test_a_member_whose_loss_is_nan_fails_alone() -> None:
    def build(gamma: float) -> Classifier:
        torch.manual_seed(0)
        return MLP((10,), batch_norm=True, loss=Breaks(gamma), optimizer=adam(0.01, 0.0))

    together = train_together([build(1.0), build(3.0), build(2.0)], [0, 0, 0], Digits(batch_size=20), 3)
    assert set(together.failures) == together.stopped == {1}
    assert isinstance(together.failures[1], NonFiniteLossError)
    assert "Breaks(gamma=3) became nan in epoch 0, step 0" in str(together.failures[1])
    for k, gamma in ((0, 1.0), (2, 2.0)):
        model = build(gamma)
        metrics = train_alone(model, Digits(batch_size=20), 3)
        assert_same_weights(together.members[k], model)
        assert together.metrics[k] == pytest.approx(metrics, abs=1e-7)


class BreaksInValidation(Breaks):
    """NaN where gamma is 3, on the 50 images of the validation split alone."""

    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        return super().per_image(logits, label) if len(logits) == 50 else FocalLoss.per_image(self, logits, label)


def test_a_member_whose_validation_loss_is_nan_fails_alone() -> None:
    models = [MLP((10,), loss=BreaksInValidation(gamma), optimizer=adam(0.01, 0.0)) for gamma in (3.0, 1.0)]
    together = train_together(models, [0, 0], Digits(batch_size=20), 2)
    assert together.stopped == {0}
    assert "became nan in the validation split after epoch 0" in str(together.failures[0])
    assert not together.metrics[0]


def test_metrics_are_those_of_each_members_logits_over_whole_splits() -> None:
    """With a learning rate of 0 an epoch's running numbers are the split's; its last batch is smaller than the others.

    Computed here without the code that a member uses alone.
    """
    data = Digits(batch_size=64, eval_batch_size=1000)
    models = [member(ARCHITECTURES["MLP"], seed, gamma, 0.0, 0.0) for seed, gamma in ((0, 0.0), (1, 2.0), (2, 5.0))]
    together = train_together(models, [0, 1, 2], data, 1).eval()
    expected: list[dict[str, float]] = [{} for _ in models]
    for name in ("train", "val"):
        ((images, labels),) = data.evaluation_dataloader(name)
        with torch.no_grad():
            every_logits = together(images.double())  # (K, N, C)
        for metrics, logits, model in zip(expected, every_logits, models, strict=True):
            accuracy, loss = (logits.argmax(dim=1) == labels).double().mean(), model.loss(logits, labels)
            if name == "train":
                metrics |= {"train/loss": loss, "train/acc_running": accuracy, "train/acc": accuracy}
            else:
                measured = classification_metrics(logits, labels, data.class_names)
                metrics |= {"val/loss": loss, **{f"val/{key}": value for key, value in measured.items()}}
    for k, metrics in enumerate(expected):
        assert together.metrics[k] == pytest.approx({key: float(value) for key, value in metrics.items()}, abs=1e-6)


def test_train_acc_of_each_member_is_without_dropout() -> None:
    data = Digits(batch_size=64, eval_batch_size=1000)

    def build(lr: float) -> Classifier:
        torch.manual_seed(0)
        return MLP((32,), dropout=0.8, optimizer=adam(lr, 0.0), evaluate_train="every_epoch")

    together = train_together([build(0.01), build(0.02)], [0, 1], data, 12).eval()
    ((images, labels),) = data.evaluation_dataloader("train")
    accuracies = (together(images.double()).argmax(dim=2) == labels).double().mean(dim=1)  # (K,)
    assert [metrics["train/acc"] for metrics in together.metrics] == pytest.approx(accuracies.tolist())
    assert all(metrics["train/acc_running"] < metrics["train/acc"] for metrics in together.metrics)


def test_with_dropout_each_member_has_a_mask_of_its_own() -> None:
    def build() -> Classifier:
        torch.manual_seed(0)
        return MLP((10,), dropout=0.5, optimizer=adam(0.01, 0.0))

    together = train_together([build(), build()], [0, 0], Digits(batch_size=20), 1)
    weights = [trained.state_dict()["network.1.weight"] for trained in together.members]
    assert (weights[0] - weights[1]).abs().max() > 1e-4


def test_common_images_give_what_own_copies_give() -> None:
    population = train_together([member(ARCHITECTURES["CNN"], *m) for m in MEMBERS], [0] * 4, Digits(), 1).eval()
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(population(images), population(images.expand(4, 3, 1, 28, 28)))


def adam_with_a_hook(parameters: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(parameters)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([{"optimizer": Lion}] * 2, "Lion.step may act on all of its parameters at once"),
        ([{"optimizer": torch.optim.LBFGS}] * 2, "LBFGS.step may act on all"),
        ([{"optimizer": adam_with_a_hook}] * 2, "Adam has hooks"),
        ([{"loss": CrossEntropyLoss(ignore_index=c)} for c in (3, 4)], "loss.ignore_index of MLP differs between"),
    ],
)
def test_what_is_not_each_members_own_is_refused(arguments: list[dict[str, Any]], reason: str) -> None:
    """An optimiser over all members' weights; images that are in the metrics of one member only."""
    with pytest.raises(TrainAloneError, match=reason):
        train_together([MLP((10,), **own) for own in arguments], [0, 0], Digits(batch_size=20), 1)


def train_alone_and_together(losses: Sequence[Any], epochs: int = 2, **data: Any) -> Population:
    """Train networks with these losses, and compare weights and metrics with those of trainings alone.

    Rates differ, too. A loss may be a function that returns one: it is not shared by the two trainings.
    """

    def build(k: int) -> Classifier:
        torch.manual_seed(k)
        return MLP((10,), loss=losses[k](), optimizer=adam(0.01 / (1 + k % 3), 0.0))

    members = range(len(losses))
    together = train_together([build(k) for k in members], [0] * len(losses), Digits(batch_size=20, **data), epochs)
    for k in members:
        model = build(k)
        metrics = train_alone(model, Digits(batch_size=20, **data), epochs)
        assert_same_weights(together.members[k], model)
        assert together.metrics[k] == pytest.approx(metrics, abs=1e-7)
    return together


def complete(loss: Any) -> Any:
    """Return a YAML's loss as `build_loss` takes it."""
    if isinstance(loss, list):
        return [complete(part) for part in loss]
    if not isinstance(loss, dict) or "class_path" not in loss:
        return loss
    arguments = {name: complete(value) for name, value in loss.get("init_args", {}).items()}
    return {"class_path": loss["class_path"], "init_args": arguments}


def test_all_losses_of_a_study_are_one_population() -> None:
    """The 17 arms of the study of losses, three of them twice and not side by side, on a long tail."""
    arms = yaml.safe_load(STUDY_OF_LOSSES.read_text())["arms"].values()
    losses = [functools.partial(build_loss, complete(arm["model.init_args.loss"])) for arm in arms]
    together = train_alone_and_together(losses + losses[4:7], imbalance=0.2)
    assert len(together.members) == 20
    weights = torch.stack([trained.get_parameter("network.1.weight") for trained in together.members]).flatten(1)
    assert torch.cdist(weights, weights)[~torch.eye(20, dtype=torch.bool)].min() > 0.01


def test_losses_that_differ_in_what_is_no_buffer_are_each_computed_with_their_own() -> None:
    """A number; a tensor computed in set_class_counts; a function, with a number that it encloses."""

    def scaled(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, labels: nn.functional.cross_entropy(scale * logits, labels)

    scaled_losses: list[Any] = [functools.partial(Private, scale) for scale in (1.0, 3.0, 1.0)]
    scaled_losses += [functools.partial(CountsAtStart, beta) for beta in (0.5, 0.9)]
    scaled_losses += [functools.partial(scaled, scale) for scale in (1.0, 3.0)]
    train_alone_and_together(scaled_losses, imbalance=0.2)


class Learns(nn.Module):
    """Cross-entropy with a temperature that is trained, too."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(start))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.log_scale.exp() * logits, labels)


def test_a_parameter_of_a_loss_is_trained_beside_losses_without_one() -> None:
    together = train_alone_and_together([CrossEntropyLoss, Learns, DiceLoss, lambda: Learns(1.0)])
    learned = [together.members[k].loss.log_scale.item() for k in (1, 3)]
    assert learned[0] != 0.0
    assert learned[1] != 1.0


def test_of_several_losses_one_that_is_nan_fails_alone() -> None:
    def build(loss: nn.Module) -> Classifier:
        torch.manual_seed(0)
        return MLP((10,), loss=loss, optimizer=adam(0.01, 0.0))

    losses = [CrossEntropyLoss, functools.partial(Breaks, 3.0), DiceLoss, functools.partial(Breaks, 2.0)]
    together = train_together([build(loss()) for loss in losses], [0] * 4, Digits(batch_size=20), 2)
    assert set(together.failures) == together.stopped == {1}
    for k in (0, 2, 3):
        model = build(losses[k]())
        metrics = train_alone(model, Digits(batch_size=20), 2)
        assert_same_weights(together.members[k], model)
        assert together.metrics[k] == pytest.approx(metrics, abs=1e-7)


def without_reduction(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


class FailsInValidation(FocalLoss):
    def per_image(self, logits: Tensor, label: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("no such memory")
        return super().per_image(logits, label)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"loss": ReadsValues()}, "RuntimeError: vmap: It looks like you're calling .item"),
        ({"loss": without_reduction}, "UserError: loss must return a scalar tensor"),
        ({"loss": FailsInValidation()}, "RuntimeError: no such memory"),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=-1.0)}, "ValueError: Invalid learning rate"),
        ({"optimizer": Lion}, "Lion.step may act on all"),
    ],
)
def test_a_member_that_must_be_trained_alone_leaves_the_others_as_a_population(own: Any, reason: str) -> None:
    members = [MLP((10,), **arguments) for arguments in ({}, own, {"loss": DiceLoss()}, own, {"loss": DiceLoss()})]
    with pytest.raises(TrainAloneError, match=reason) as error:
        train_together(members, [0] * 5, Digits(batch_size=20), 1)
    assert error.value.rest == [[0, 2, 4]]


def test_a_network_that_reads_its_loss_shares_no_population_with_another_loss() -> None:
    """With the first member's loss in their place, it would compute the others' logits with another number."""

    class Scales(MLP):
        def forward(self, images: Tensor) -> Tensor:
            return (1 + self.loss.gamma) * super().forward(images)

    members = [Scales((10,), loss=loss) for loss in (FocalLoss(1.0), Breaks(0.0), FocalLoss(2.0))]
    with pytest.raises(TrainAloneError, match=r"Scales.forward reads the loss, of which there are 2") as error:
        train_together(members, [0] * 3, Digits(batch_size=20), 1)
    assert error.value.rest == [[0, 2], [1]]
    train_together([Scales((10,), loss=FocalLoss(gamma)) for gamma in (1.0, 2.0)], [0] * 2, Digits(batch_size=20), 1)


class CountsAStep(Callback):
    """From the beginning of the third batch to that of the fourth, which has been gathered then."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self.operations = Operations()
            self.operations.__enter__()
        elif batch_idx == 3:
            self.operations.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("build", "augmentation", "most"),
    [(MLP, None, 80), (functools.partial(CNN, (4, 6, 8)), Augmentation(rotation=0, shift=1.5, scale=0), 160)],
    ids=["MLP", "augmented CNN"],
)
def test_a_step_has_as_many_operations_for_any_number_of_members(build: Any, augmentation: Any, most: int) -> None:
    """Gathering, scaling, augmentation, networks, losses, gradients, optimiser, schedule and running sums."""
    counts = []
    for members in (4, 16, 60):
        counter = CountsAStep()
        models = [member(build, k, float(k % 5), 0.01, 0.0) for k in range(members)]
        training = trainer(1, "32-true", [counter])
        datas = [Digits(batch_size=20, seed=k, augmentation=augmentation) for k in range(members)]
        training.fit(Population(models), PopulationData(datas))
        counts.append(counter.operations.count)
        assert not counter.operations.read
    assert len(set(counts)) == 1
    assert counts[0] <= most


def test_a_population_with_losses_of_single_images_is_refused() -> None:
    with pytest.raises(TrainAloneError, match="scalar") as error:
        train_together([MLP((10,), loss=without_reduction) for _ in "12"], [0, 0], Digits(batch_size=20), 1)
    assert error.value.rest == [[]]
