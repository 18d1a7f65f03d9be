import functools
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import Logger
from tiny_digits import TinyDigits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from losslab.errors import UserError, notice_once
from losslab.losses import (
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    EffectiveNumber,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    InverseFrequency,
    LDAMLoss,
)
from losslab.metrics import classification_metrics, metric_keys
from losslab.models import CNN, MLP, Classifier, NonFiniteLossError, ResNet, SeparableCNN
from losslab.models.checks import name_of

TRAIN_KEYS = {"train/loss", "train/acc_running", "train/acc"}
VAL_KEYS = {"val/loss", *(f"val/{key}" for key in metric_keys(TinyDigits.class_names))}
SMALL = {"widths": (4, 6, 8)}

sgd = functools.partial(torch.optim.SGD, lr=0.1)
every_epoch = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
frozen = functools.partial(torch.optim.SGD, lr=0.0)


class Linear(Classifier):
    """What a user has to write."""

    def __init__(self, num_classes=10, image_shape=(1, 28, 28), loss=None, evaluate_train="last_epoch"):
        super().__init__(num_classes, image_shape, loss, None, None, evaluate_train)
        self.network = nn.Linear(math.prod(image_shape), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.flatten(1))


class HalfSquaredError(nn.Module):
    """A user's own loss: no base class, nothing but a forward."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - nn.functional.one_hot(labels, logits.shape[1])).square().sum(dim=1).mean() / 2


class NotFiniteAt(nn.Module):
    """Cross-entropy, but `value` at one call in training, or at all in evaluation."""

    def __init__(self, call: int | None, value: float = math.nan) -> None:
        super().__init__()
        self.call, self.value, self.calls = call, value, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        bad = self.calls == self.call if self.training else self.call is None
        self.calls += self.training
        return loss * self.value if bad else loss


class Epochs(Logger):
    """Keeps what is logged: one dictionary an epoch."""

    name, version = "epochs", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, params, *args, **kwargs) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        epoch = int(metrics.pop("epoch"))
        self.rows += [{} for _ in range(epoch + 1 - len(self.rows))]
        assert not self.rows[epoch].keys() & metrics.keys(), "logged twice in an epoch"
        self.rows[epoch] |= metrics


def make_trainer(**arguments) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(
        **({"accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, "max_epochs": 2} | quiet | arguments)
    )


def fit(model: Classifier, seed: int = 0, eval_batch_size: int = 500, **arguments) -> Trainer:
    """In epochs of four steps, with 64, 64, 64 and 8 images."""
    trainer = make_trainer(**arguments)
    trainer.fit(model, datamodule=TinyDigits(batch_size=64, eval_batch_size=eval_batch_size, seed=seed))
    return trainer


def split(name: str) -> tuple[Tensor, Tensor]:
    """All images of a split, as the network gets them, and their labels."""
    data = TinyDigits(eval_batch_size=1000)
    data.setup("test" if name == "test" else "fit")
    ((images, labels),) = data.evaluation_dataloader(name)
    return images, labels


def logits_of(model: Classifier, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def seeded_mlp(**arguments) -> MLP:
    seed_everything(0, verbose=False)
    return MLP(**({"hidden": (16,)} | arguments))


# What is logged


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(batch_norm=True, dropout=0.1),
        lambda: CNN(**SMALL),
        lambda: SeparableCNN(**SMALL),
        lambda: ResNet(**SMALL),
        Linear,
    ],
    ids=["MLP", "CNN", "SeparableCNN", "ResNet", "a user's own"],
)
def test_every_contracted_key_is_logged_and_finite(make):
    seed_everything(0, verbose=False)
    before = weights_of(model := make())
    metrics = fit(model).callback_metrics
    assert set(metrics) == TRAIN_KEYS | VAL_KEYS
    assert all(value.isfinite() for value in metrics.values())
    assert not torch.equal(weights_of(model)[: len(before)], before)


def test_after_the_fit_a_test_logs_the_same_keys_under_test_and_nothing_else():
    model = seeded_mlp()
    trainer = fit(model, max_epochs=1)
    trainer.test(model, datamodule=TinyDigits(), verbose=False)
    assert set(trainer.callback_metrics) == {key.replace("val/", "test/") for key in VAL_KEYS}
    images, labels = split("test")
    torch.testing.assert_close(model.evaluated, (logits_of(model, images), labels))
    assert trainer.callback_metrics["test/acc"] == (model.evaluated[0].argmax(dim=1) == labels).float().mean()


def test_keys_carry_the_class_names():
    class Named(TinyDigits):
        class_names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    trainer = make_trainer(max_epochs=1)
    trainer.fit(seeded_mlp(), datamodule=Named())
    assert {"val/precision/zero", "val/recall/nine"} < set(trainer.callback_metrics)
    assert "val/precision/0" not in trainer.callback_metrics


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(2.0), nn.CrossEntropyLoss()], ids=repr)
def test_running_numbers_are_means_over_the_images_and_not_over_the_batches(loss):
    """With a learning rate of 0, the epoch's mean is the whole split's; the last batch is smaller than the others."""
    model = seeded_mlp(loss=loss, optimizer=frozen)
    metrics = fit(model).callback_metrics
    images, labels = split("train")
    logits = logits_of(model, images)
    assert metrics["train/loss"].item() == pytest.approx(loss(logits, labels).item(), rel=1e-5)
    assert metrics["train/acc_running"].item() == pytest.approx((logits.argmax(dim=1) == labels).double().mean().item())
    assert metrics["train/acc_running"] == metrics["train/acc"]


def test_train_acc_is_the_accuracy_on_the_training_split_without_dropout_at_the_epochs_end():
    model = seeded_mlp(dropout=0.8)
    metrics = fit(model).callback_metrics
    images, labels = split("train")
    accuracy = (logits_of(model, images).argmax(dim=1) == labels).double().mean()
    assert metrics["train/acc"].item() == accuracy.item()
    assert metrics["train/acc_running"] < metrics["train/acc"]


def test_train_acc_is_on_the_labels_as_trained():
    model = seeded_mlp()
    trainer, data = make_trainer(), TinyDigits(label_noise=0.5)
    trainer.fit(model, datamodule=data)
    images, clean = split("train")
    predicted, trained = logits_of(model, images).argmax(dim=1), data.split("train").labels
    assert not torch.equal(clean, trained)
    assert trainer.callback_metrics["train/acc"].item() == (predicted == trained).double().mean().item()


@pytest.mark.parametrize("when", ["never", "last_epoch", "every_epoch"])
def test_train_acc_is_measured_when_it_is_asked_for(when):
    class Mode(Callback):
        def on_before_zero_grad(self, trainer, model, optimizer):
            modes.append(model.training and model.network.training)

    epochs, modes = Epochs(), []
    fit(seeded_mlp(evaluate_train=when), logger=epochs, callbacks=[Mode()], log_every_n_steps=1)
    assert ["train/acc" in row for row in epochs.rows] == [when == "every_epoch", when != "never"]
    assert set(epochs.rows[1]) == (TRAIN_KEYS | VAL_KEYS) - ({"train/acc"} if when == "never" else set())
    assert len(modes) == 8
    assert all(modes)  # also behind the first measurement, which is in eval mode


@pytest.mark.filterwarnings("ignore:Found 9 module.* in eval mode")  # Lightning's, and the case
def test_a_frozen_batch_norm_stays_frozen_when_train_acc_is_measured():
    model = ResNet(evaluate_train="every_epoch")
    norms = [module.eval() for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    fit(model)
    assert norms
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_measuring_train_acc_changes_no_weight():
    one, other = (seeded_mlp(dropout=0.5, evaluate_train=when) for when in ("last_epoch", "every_epoch"))
    for model in (one, other):
        seed_everything(1, verbose=False)
        fit(model)
    assert torch.equal(weights_of(one), weights_of(other))


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), DiceLoss(), nn.CrossEntropyLoss()], ids=repr)
def test_validation_numbers_are_those_of_the_evaluated_logits(loss):
    model = seeded_mlp(loss=loss)
    metrics = fit(model, eval_batch_size=7).callback_metrics
    images, labels = split("val")
    logits, evaluated_labels = model.evaluated
    assert torch.equal(evaluated_labels, labels)
    torch.testing.assert_close(logits, logits_of(model, images))
    expected = {"loss": loss(logits, labels), **classification_metrics(logits, labels, TinyDigits.class_names)}
    for key, value in expected.items():
        assert metrics[f"val/{key}"].item() == pytest.approx(value.item(), rel=1e-6), key


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), DiceLoss()], ids=repr)
def test_validation_does_not_depend_on_its_batch_size(loss):
    """Also for dice, which is no mean over batches."""
    several = []
    for eval_batch_size in (500, 17):
        model = seeded_mlp(loss=loss)
        metrics = fit(model, eval_batch_size=eval_batch_size).callback_metrics
        several.append({key: value.item() for key, value in metrics.items()})
    assert several[0] == pytest.approx(several[1], rel=1e-5)


def test_a_sanity_check_leaves_no_trace():
    one, other = seeded_mlp(), seeded_mlp()
    with_check, without = fit(one, num_sanity_val_steps=1, eval_batch_size=20), fit(other, eval_batch_size=20)
    assert len(one.evaluated[1]) == 50
    assert with_check.callback_metrics == without.callback_metrics


def test_prediction_gives_the_logits_of_the_validation_split():
    model, trainer = seeded_mlp(), make_trainer()
    batches = trainer.predict(model, datamodule=TinyDigits(eval_batch_size=20))
    images, labels = split("val")
    assert [len(batch) for batch in batches] == [20, 20, 10]
    torch.testing.assert_close(torch.cat(batches), logits_of(model, images))
    torch.testing.assert_close(model.evaluated, (torch.cat(batches), labels))


# Repeatability


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_one_others():
    def trained(seed: int, order: int) -> Tensor:
        seed_everything(seed, verbose=False)
        fit(model := CNN(**SMALL), seed=order)
        return weights_of(model)

    first = trained(0, 0)
    assert torch.equal(first, trained(0, 0))
    assert not torch.equal(first, trained(1, 0))
    assert not torch.equal(first, trained(0, 1))


class SaveAt(Callback):
    """Saves middle.ckpt behind the given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint("middle.ckpt")


def test_a_checkpoint_within_an_epoch_holds_the_tally_of_each_rank_as_plain_values():
    fit(seeded_mlp(), callbacks=[SaveAt(6)])
    (so_far,) = torch.load("middle.ckpt", weights_only=True)["epoch_so_far"]
    assert so_far.keys() == {"losses", "correct", "sizes", "top_logits"}
    assert so_far["sizes"] == [64, 64]
    assert [[value.shape for value in so_far[key]] for key in ("losses", "correct", "top_logits")] == [[()] * 2] * 3


@pytest.mark.parametrize("step", [2, 4, 6])
@pytest.mark.parametrize("schedule", [None, every_epoch], ids=["one cycle", "every epoch"])
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_fit_that_goes_on_within_an_epoch_is_as_if_it_had_not_stopped(step, schedule, accelerator):
    """Four steps an epoch: in the middle of the first and the second, and at the first one's end."""
    whole, resumed = (seeded_mlp(dropout=0.0, lr_scheduler=schedule) for _ in range(2))
    expected, actual = Epochs(), Epochs()
    common = {"accelerator": accelerator, "log_every_n_steps": 1, "max_epochs": 3}
    fit(whole, callbacks=[SaveAt(step)], logger=expected, **common)
    trainer = make_trainer(logger=actual, **common)
    trainer.fit(resumed, datamodule=TinyDigits(batch_size=64), ckpt_path="middle.ckpt", weights_only=True)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert actual.rows[step // 4 :] == expected.rows[step // 4 :]


# Optimiser and schedule


class LearningRates(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_default_is_fused_adam_with_one_cycle_over_all_steps():
    rates = LearningRates()
    trainer = fit(seeded_mlp(), callbacks=[rates], max_epochs=5)
    (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["fused"]
    assert schedule.interval == "step"
    assert type(schedule.scheduler) is torch.optim.lr_scheduler.OneCycleLR
    peak = rates.values.index(max(rates.values))
    assert len(rates.values) == schedule.scheduler.total_steps == 20
    assert max(rates.values) == pytest.approx(0.01, rel=0.02)
    assert rates.values[: peak + 1] == sorted(rates.values[: peak + 1])
    assert rates.values[peak:] == sorted(rates.values[peak:], reverse=True)
    assert rates.values[0] == pytest.approx(0.01 / 25)
    assert rates.values[-1] < 1e-6


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_one_cycle_goes_up_to_the_learning_rate_of_an_injected_optimiser(optimizer):
    """Which need not have a momentum that could be cycled too: Adagrad has none."""
    rates = LearningRates()
    model = seeded_mlp(optimizer=functools.partial(optimizer, lr=0.1))
    trainer = fit(model, callbacks=[rates], max_epochs=5)
    assert type(trainer.optimizers[0]) is optimizer
    assert max(rates.values) == pytest.approx(0.1, rel=0.02)
    assert rates.values[0] == pytest.approx(0.1 / 25)


def test_an_injected_schedule_steps_after_each_epoch():
    rates = LearningRates()
    fit(seeded_mlp(optimizer=sgd, lr_scheduler=every_epoch), callbacks=[rates], max_epochs=3)
    assert rates.values == [0.1] * 4 + [0.05] * 4 + [0.025] * 4


def test_a_schedule_may_watch_a_metric():
    """The accuracy never rises above 2, so the rate falls behind every epoch but the first."""
    rates = LearningRates()
    watch = functools.partial(ReduceLROnPlateau, monitor="val/acc", mode="max", threshold=2.0, patience=0)
    fit(seeded_mlp(optimizer=sgd, lr_scheduler=watch), callbacks=[rates], max_epochs=3)
    assert rates.values[::4] == pytest.approx([0.1, 0.1, 0.01])


# Losses


def test_torchs_cross_entropy_trains_the_same_weights_as_losslabs():
    function = nn.functional.cross_entropy
    losses = (None, CrossEntropyLoss(), nn.CrossEntropyLoss(), function, FocalLoss(0.0))
    models = [seeded_mlp(loss=loss) for loss in losses]
    for model in models:
        fit(model)
    for other in models[1:]:
        own = [weights_of(model.network) for model in (models[0], other)]
        torch.testing.assert_close(*own, rtol=1e-3, atol=1e-5)


def test_a_users_own_module_is_a_loss():
    model = seeded_mlp(loss=HalfSquaredError())
    metrics = fit(model, max_epochs=20).callback_metrics
    assert set(metrics) == TRAIN_KEYS | VAL_KEYS
    assert metrics["val/loss"].item() == pytest.approx(HalfSquaredError()(*model.evaluated).item(), rel=1e-5)
    assert metrics["train/acc"] > 0.8  # and it is what is minimised


def test_the_loss_is_told_the_class_counts():
    model = seeded_mlp(loss=CrossEntropyLoss(class_weights=InverseFrequency()))
    trainer, data = make_trainer(max_epochs=1), TinyDigits(imbalance=0.25)
    trainer.fit(model, datamodule=data)
    assert torch.equal(model.loss.class_counts, data.class_counts)
    assert len(set(data.class_counts.tolist())) > 1
    expected = data.class_counts.sum() / (10 * data.class_counts)
    torch.testing.assert_close(model.loss.class_weights, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_loss_that_is_not_finite_stops_the_fit_and_is_named_with_epoch_and_step(value, step):
    """Four steps an epoch; the weights are spoilt before the validation, which must not be blamed."""
    model = seeded_mlp(loss=NotFiniteAt(step, value))
    where = rf"the loss NotFiniteAt\(\) became {value} in epoch {step // 4}, step {step % 4}\."
    with pytest.raises(NonFiniteLossError, match=where):
        fit(model)


def test_it_is_named_without_a_validation_too():
    with pytest.raises(NonFiniteLossError, match=r"NotFiniteAt\(\) became nan in epoch 1, step 1\."):
        fit(seeded_mlp(loss=NotFiniteAt(5)), limit_val_batches=0)


def test_a_validation_loss_that_is_not_finite_is_named_as_such():
    """Behind an epoch, and not in the sanity check before the first."""
    model = seeded_mlp(loss=NotFiniteAt(None))
    with pytest.raises(NonFiniteLossError, match=r"NotFiniteAt\(\) became nan in the validation split after epoch 0"):
        fit(model, num_sanity_val_steps=1)
    assert model.loss.calls == 4


class InfiniteAt(MLP):
    """Its logits are as usual, but `value` is added to the label's at one step, or at all in evaluation."""

    def __init__(self, call: int | None, value: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.call, self.value, self.calls, self.labels = call, value, 0, None

    def training_step(self, batch, batch_idx):
        self.labels = batch[1]
        return super().training_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        self.labels = batch[1]
        return super().predict_step(batch, batch_idx)

    validation_step = predict_step

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        bad = self.calls == self.call if self.training else self.call is None
        self.calls += self.training
        if bad and self.labels is not None:
            logits = logits.detach().scatter(1, self.labels[:, None], self.value) + 0 * logits.sum()
        return logits


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(2.0), GeneralizedCrossEntropyLoss()], ids=repr)
def test_infinite_logits_of_the_labels_are_found_although_the_loss_is_finite(loss):
    labels = torch.arange(10)
    assert loss(torch.zeros(10, 10).fill_diagonal_(math.inf), labels).isfinite()
    model = InfiniteAt(5, math.inf, loss=loss)
    with pytest.raises(NonFiniteLossError, match=r"the logits became inf in epoch 1, step 1\."):
        fit(model)


def test_infinite_logits_are_found_in_a_validation_too():
    with pytest.raises(NonFiniteLossError, match=r"the logits became inf in the validation split after epoch 0"):
        fit(InfiniteAt(None, math.inf))


def test_a_masked_class_is_no_divergence():
    """A logit of -inf leaves a class out."""

    class Masked(MLP):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).index_fill(1, torch.tensor([9]), -math.inf)

    trainer = fit(Masked(loss=CrossEntropyLoss(ignore_index=9)))
    assert trainer.callback_metrics["val/precision/9"] == 0
    assert trainer.callback_metrics["train/acc"] > 0.1


# Ignored images


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(ignore_index=9),
        nn.CrossEntropyLoss(ignore_index=9),
        CompoundLoss([FocalLoss(1.0, ignore_index=9), CrossEntropyLoss(ignore_index=9)]),
        functools.partial(nn.functional.cross_entropy, ignore_index=9),
    ],
    ids=["losslab's", "torch's", "compound", "function"],
)
def test_images_that_the_loss_ignores_are_in_no_metric(loss):
    """Each number is that of the other images, on which the loss need not ignore anything."""
    model = seeded_mlp(loss=loss, optimizer=frozen)
    trainer = fit(model, eval_batch_size=20)
    trainer_metrics = dict(trainer.callback_metrics)
    for name, prefix in (("val", "val"), ("train", "train")):
        images, labels = split(name)
        kept = labels != 9
        assert 0 < kept.sum() < len(labels)
        logits = logits_of(model, images[kept])
        accuracy = (logits.argmax(dim=1) == labels[kept]).double().mean().item()
        assert trainer_metrics[f"{prefix}/loss"].item() == pytest.approx(loss(logits, labels[kept]).item(), rel=1e-5)
        for key in ("val/acc",) if name == "val" else ("train/acc", "train/acc_running"):
            assert trainer_metrics[key].item() == pytest.approx(accuracy, rel=1e-6), key
        if name == "val":
            expected = classification_metrics(logits, labels[kept], TinyDigits.class_names)
            for key, value in expected.items():
                assert trainer_metrics[f"val/{key}"].item() == pytest.approx(value.item(), rel=1e-6), key
    labels = split("val")[1]
    assert torch.equal(model.evaluated[1], torch.where(labels == 9, -1, labels))


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[CNN, Path]:
    """A model built in Python with objects, trained and saved."""
    seed_everything(0, verbose=False)
    loss = FocalLoss(1.5, class_weights=InverseFrequency())
    model = CNN(**SMALL, loss=loss, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    trainer = make_trainer(max_epochs=1)
    trainer.fit(model, datamodule=TinyDigits(imbalance=0.25))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    return model, tmp_path / "model.ckpt"


def test_a_checkpoint_of_a_model_with_objects_holds_plain_values_only(checkpoint):
    _, path = checkpoint
    saved = torch.load(path, weights_only=True)
    assert saved["hyper_parameters"]["widths"] == (4, 6, 8)
    assert saved["hyper_parameters"]["image_shape"] == (1, 28, 28)
    assert not {"loss", "optimizer"} & set(saved["hyper_parameters"])
    assert "loss.class_counts" in saved["state_dict"]


def test_a_checkpoint_is_a_model_again(checkpoint):
    model, path = checkpoint
    loaded = CNN.load_from_checkpoint(path, weights_only=True)
    images, _ = split("val")
    assert torch.equal(logits_of(loaded, images), logits_of(model, images))
    assert repr(loaded.loss) == repr(model.loss)
    assert torch.equal(loaded.loss.class_weights, model.loss.class_weights)


def test_a_loss_given_again_finds_its_class_counts_in_the_checkpoint(checkpoint):
    model, path = checkpoint
    loss = FocalLoss(1.5, class_weights=InverseFrequency())
    loaded = CNN.load_from_checkpoint(path, weights_only=True, loss=loss)
    assert torch.equal(loaded.loss.class_counts, model.loss.class_counts)
    (metrics,) = make_trainer().validate(loaded, datamodule=TinyDigits(), verbose=False)
    assert metrics["val/loss"] == pytest.approx(model.loss(*model.evaluated).item(), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        FocalLoss(3.0),
        FocalLoss(class_weights=[float(c) for c in range(10)], ignore_index=9),
        CompoundLoss([LDAMLoss(), CrossEntropyLoss(class_weights=EffectiveNumber(0.9))], [2.0, 0.5]),
        None,
    ],
    ids=["a gamma", "a list of weights", "nested", "the default"],
)
def test_a_model_built_in_python_comes_back_with_its_loss_as_it_was_when_saved(loss, tmp_path):
    model = seeded_mlp(loss=loss)
    trainer = fit(model, max_epochs=1)
    if isinstance(loss, FocalLoss):
        model.loss.gamma.fill_(4)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    logits, labels = model.evaluated[0], split("val")[1]
    assert type(loaded.loss) is type(model.loss)
    assert loaded.loss(logits, labels) == model.loss(logits, labels)


def test_a_loss_that_is_given_or_set_by_the_constructor_is_not_replaced(tmp_path):
    class Own(MLP):
        def __init__(self, gamma: float = 1.0, **kwargs):
            super().__init__(loss=FocalLoss(gamma), **kwargs)

    model = Own(2.0)
    fit(model, max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    assert Own.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).loss.gamma == 2
    fit(seeded_mlp(loss=FocalLoss(2.0)), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, loss=FocalLoss(3.0))
    assert loaded.loss.gamma == 3


def test_a_loss_that_comes_with_the_checkpoint_ignores_its_label_when_the_training_goes_on(tmp_path):
    loss = FocalLoss(2.0, ignore_index=9)
    fit(seeded_mlp(loss=loss, lr_scheduler=every_epoch), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    numbers = []
    for model in (seeded_mlp(loss=loss, lr_scheduler=every_epoch), seeded_mlp(lr_scheduler=every_epoch)):
        trainer = make_trainer(max_epochs=2)
        trainer.fit(model, datamodule=TinyDigits(), ckpt_path=tmp_path / "model.ckpt", weights_only=True)
        numbers.append(dict(trainer.callback_metrics))
    assert numbers[0] == numbers[1]


def test_going_on_with_another_loss_than_the_checkpoints_is_noticed(tmp_path, caplog):
    class OwnDefault(MLP):
        def __init__(self, loss=None, **kwargs):
            super().__init__(loss=loss or FocalLoss(2.0), **kwargs)

    fit(OwnDefault(loss=FocalLoss(5.0)), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    caplog.clear()
    notice_once.cache_clear()
    OwnDefault.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, loss=FocalLoss(5.0))
    assert "trained with the loss" not in caplog.text
    OwnDefault.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert "trained with the loss" in caplog.text


def test_an_object_among_the_networks_own_arguments_has_to_be_given_again(tmp_path):
    class Own(MLP):
        def __init__(self, activation: nn.Module | None = None, scale=torch.relu, **kwargs):
            super().__init__(**kwargs)
            self.activation, self.scale = activation or nn.ReLU(), scale

        def forward(self, images: Tensor) -> Tensor:
            return self.activation(super().forward(images))

    path = tmp_path / "model.ckpt"
    fit(Own(), max_epochs=1).save_checkpoint(path)
    assert isinstance(Own.load_from_checkpoint(path, weights_only=True).activation, nn.ReLU)
    fit(Own(activation=nn.Tanh()), max_epochs=1).save_checkpoint(path)
    with pytest.raises(UserError, match=r"trained with activation=Tanh\(\), an object"):
        Own.load_from_checkpoint(path, weights_only=True)
    assert isinstance(Own.load_from_checkpoint(path, weights_only=True, activation=nn.Tanh()).activation, nn.Tanh)


def test_a_step_that_does_not_call_losslabs_trains_and_is_validated():
    class OwnStep(MLP):
        def training_step(self, batch, batch_idx):
            images, labels = batch
            return nn.functional.cross_entropy(self(images), labels)

    model, untrained = OwnStep(), OwnStep()
    untrained.load_state_dict(model.state_dict())
    metrics = fit(model).callback_metrics
    images, labels = split("val")
    assert metrics["val/loss"] == model.loss(logits_of(model, images), labels)
    assert metrics["val/loss"] < model.loss(logits_of(untrained, images), labels)
    assert "train/loss" not in metrics


def test_probabilities_instead_of_logits_and_an_ignored_class_are_noticed(caplog):
    class Softmax(MLP):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(dim=1)

    notice_once.cache_clear()
    fit(seeded_mlp(loss=FocalLoss(ignore_index=9)), max_epochs=1)
    assert "the loss ignores class 9" in caplog.text
    assert "probabilities" not in caplog.text
    fit(Softmax(), max_epochs=1)
    assert "the network returns probabilities" in caplog.text


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), HalfSquaredError(), nn.functional.cross_entropy], ids=name_of)
def test_a_loss_that_is_not_losslabs_has_to_be_given_again(loss, tmp_path):
    fit(seeded_mlp(loss=loss), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"trained with loss=\S+, an object.*load_from_checkpoint\(path, loss=\.\.\.\)"):
        MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, loss=loss).loss is loss


@pytest.mark.parametrize(
    "given", [{"optimizer": sgd}, {"lr_scheduler": every_epoch}], ids=["optimizer", "lr_scheduler"]
)
def test_an_optimizer_or_a_schedule_is_needed_again_for_a_training_only(given, tmp_path):
    fit(seeded_mlp(**given), max_epochs=1).save_checkpoint(tmp_path / "model.ckpt")
    (name,) = given
    loaded = MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    make_trainer().validate(loaded, datamodule=TinyDigits(), verbose=False)
    with pytest.raises(UserError, match=rf"trained with {name}=functools.partial.*give it again"):
        fit(loaded)
    fit(MLP.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, **given), max_epochs=1)


def test_a_checkpoint_of_an_earlier_version_loads_as_before(checkpoint):
    _, path = checkpoint
    saved = torch.load(path, weights_only=True)
    del saved["built_with"]
    del saved["epoch_so_far"][0]["top_logits"]
    del saved["state_dict"]["loss.class_counts"]
    torch.save(saved, path)
    loaded = CNN.load_from_checkpoint(path, weights_only=True)
    assert type(loaded.loss) is CrossEntropyLoss
    fit(loaded, max_epochs=1)


def test_a_subclass_that_saves_its_arguments_once_more_has_plain_checkpoints_too(tmp_path):
    class Saving(MLP):
        def __init__(self, loss=None):
            super().__init__(loss=loss)
            self.save_hyperparameters(logger=False)

    with pytest.warns(UserWarning, match="'loss' is an instance of `nn.Module`"):
        model = Saving(FocalLoss())
    trainer = fit(model, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert "loss" not in torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]


# Other surroundings


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")  # Lightning's advice on DataLoaders
def test_plain_loaders_instead_of_a_data_module_do_without_train_acc():
    train, val = (DataLoader(TensorDataset(*split(name)), batch_size=64) for name in ("train", "val"))
    model, trainer = seeded_mlp(), make_trainer()
    trainer.fit(model, train, val)
    assert set(trainer.callback_metrics) == {"train/loss", "train/acc_running"} | VAL_KEYS
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_log_finite_numbers(precision):
    model = seeded_mlp()
    metrics = fit(model, precision=precision, max_epochs=20).callback_metrics
    assert set(metrics) == TRAIN_KEYS | VAL_KEYS
    assert all(value.isfinite() for value in metrics.values())
    assert metrics["train/acc"] > 0.8
    assert model.evaluated[0].dtype == (torch.float64 if precision == "64-true" else torch.float32)


def test_mixed_precision_is_in_force_where_train_acc_is_measured():
    """A layer that asks for the dtype: bfloat16 in every forward, behind a matrix product under autocast."""

    class Dtypes(Linear):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            seen.add(logits.dtype)
            return logits

    seen: set[torch.dtype] = set()
    fit(Dtypes(evaluate_train="every_epoch"), precision="bf16-mixed", max_epochs=1)
    assert seen == {torch.bfloat16}


def test_the_classifier_itself_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Classifier(10, (1, 28, 28), None, None, None, "last_epoch")
