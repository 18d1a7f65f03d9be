"""What is refused or warned of before a training."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from loss_examples import Example, examples
from tiny_digits import TinyDigits
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules

from losslab.errors import UserError, notice_once
from losslab.losses import CompoundLoss, CrossEntropyLoss, DiceLoss, FocalLoss, LDAMLoss, Loss, ignored_label
from losslab.models import MLP
from losslab.models.checks import require_fitting

CPU = torch.device("cpu")
EPOCHS, STEPS = 3, 12
"""Of the trainings below: four steps an epoch."""


@pytest.fixture(autouse=True)
def _notices_anew() -> None:
    notice_once.cache_clear()


def notices(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "losslab"]


def fit(model: MLP, **arguments) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    base = {"accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, "max_epochs": EPOCHS}
    trainer = Trainer(**(base | quiet | arguments))
    trainer.fit(model, datamodule=TinyDigits(batch_size=64))
    return trainer


def mlp(**arguments) -> MLP:
    return MLP((8,), optimizer=functools.partial(torch.optim.SGD, lr=0.1), **arguments)


# The loss

VARIANTS = examples("loss", [])
SMOOTHED = [example for example in VARIANTS if example.takes("probability_targets", "label_smoothing")]


@pytest.mark.parametrize("example", VARIANTS, ids=str)
@pytest.mark.parametrize("num_classes", [3, 10])
def test_no_loss_of_losslab_is_warned_of(example: Example, num_classes: int, caplog) -> None:
    extremes = [{"ignore_index": num_classes - 1}, {"class_weights": [0.0, *[1.0] * (num_classes - 1)]}]
    extremes += [{"label_smoothing": smoothing} for smoothing in (0.1, 0.9, 0.99)]
    for policies in ({}, *(each for each in extremes if example.takes(*each))):
        if "label_smoothing" not in policies or example in SMOOTHED:
            require_fitting(example.make(num_classes, **policies), num_classes, CPU)
    assert notices(caplog) == []


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.9, ignore_index=2),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
        nn.MultiMarginLoss(),
        F.cross_entropy,
        functools.partial(F.cross_entropy, reduction="sum", ignore_index=0),
        lambda z, t: F.binary_cross_entropy_with_logits(z, F.one_hot(t, 3).float()),
        lambda z, t: (1 - z.softmax(1).gather(1, t[:, None])).mean(),
        lambda z, t: F.nll_loss(F.log_softmax(z, 1), t),
    ],
)
def test_no_other_honest_loss_is_warned_of(loss, caplog) -> None:
    require_fitting(loss, 3, CPU)
    assert notices(caplog) == []


class Weighted(nn.NLLLoss):
    """Derives from torch's, and uses its arguments only."""


class WithLogSoftmax(nn.NLLLoss):
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits.log_softmax(1), labels)


def sigmoid_focal_loss(inputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(inputs, targets)


sigmoid_focal_loss.__module__ = "torchvision.ops.focal_loss"


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (nn.NLLLoss(), "NLLLoss takes log-probabilities: use CrossEntropyLoss"),
        (Weighted(), "NLLLoss takes log-probabilities: use CrossEntropyLoss"),
        (F.nll_loss, "nll_loss takes log-probabilities"),
        (functools.partial(F.nll_loss, ignore_index=1), "nll_loss takes log-probabilities"),
        (nn.KLDivLoss(), "KLDivLoss takes log-probabilities"),
        (nn.PoissonNLLLoss(), "PoissonNLLLoss takes log-probabilities"),
        (nn.GaussianNLLLoss(), "GaussianNLLLoss takes log-probabilities"),
        (nn.BCELoss(), "BCELoss takes a target of 0 or 1 for each logit: use BinaryFocalLoss"),
        (nn.BCEWithLogitsLoss(), "BCEWithLogitsLoss takes a target of 0 or 1"),
        (nn.MultiLabelMarginLoss(), "MultiLabelMarginLoss takes a target of 0 or 1"),
        (nn.MultiLabelSoftMarginLoss(), "MultiLabelSoftMarginLoss takes a target of 0 or 1"),
        (F.binary_cross_entropy_with_logits, "binary_cross_entropy_with_logits takes a target of 0 or 1"),
        (sigmoid_focal_loss, "sigmoid_focal_loss takes a target of 0 or 1"),
        (nn.MSELoss(), "MSELoss takes something else: use CrossEntropyLoss"),
        (nn.CTCLoss(), "CTCLoss takes something else"),
        (nn.TripletMarginLoss(), "TripletMarginLoss takes something else"),
        (lambda z, t: F.l1_loss(z, t), r"<lambda> fails when called with logits \(66, 3\) torch.float32 and labels"),
        (lambda z, t: z.undefined, "<lambda> fails when called .*: AttributeError: "),
        (lambda z, t: F.cross_entropy(z, t, reduction="none"), r"<lambda> returns a tensor \(66,\), called with"),
        (lambda z, t: {"loss": z.sum()}, "<lambda> returns dict, called with"),
        (lambda z, t: 1.0, "<lambda> returns float"),
        (lambda z, t: (z.argmax(1) != t).float().mean(), "<lambda> has no gradient in the logits"),
        (FocalLoss(class_weights=[1.0, 2.0]), "class_weights must be 3 numbers, one a class, got 2"),
        (LDAMLoss(), "LDAMLoss needs the classes' frequencies"),
        (CrossEntropyLoss("none"), r"CrossEntropyLoss\(\) returns a tensor \(66,\).* has reduction='mean'"),
        (DiceLoss(reduction="none"), r"must return a scalar tensor, but DiceLoss\(.*\) returns a tensor \(3,\)"),
    ],
)
def test_a_loss_that_cannot_be_right_is_refused_in_one_line(loss, told: str) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        require_fitting(loss, 3, CPU)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda z, t: F.nll_loss(z, t), "is negative"),
        (lambda z, t: -F.cross_entropy(z, t), "is negative"),
        (lambda z, t: F.cross_entropy(-z, t), "is not smaller for right answers"),
        (lambda z, t: F.cross_entropy(z, (t + 1) % 3), "is not smaller for right answers"),
        (lambda z, t: z.square().mean() * 0 + 1, "is not smaller for right answers"),
        (lambda z, t: -z.softmax(1).gather(1, t[:, None]).sub(1e-9).log().mean() / 0, "is not finite"),
        (lambda z, t: z.log().mean(), "is not finite: nan on random logits"),
    ],
)
def test_a_loss_whose_values_are_doubtful_gets_one_notice(loss, told: str, caplog) -> None:
    for _ in range(3):
        require_fitting(loss, 3, CPU)
    (message,) = notices(caplog)
    assert message.startswith("NOTICE: the loss ")
    assert told in message


def test_a_loss_of_torch_that_is_derived_from_with_its_own_forward_is_judged_by_its_values(caplog) -> None:
    require_fitting(WithLogSoftmax(), 3, CPU)
    assert notices(caplog) == []


class Counting(nn.Module):
    """Keeps a state, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(())), 0
        self.register_buffer("total", torch.zeros(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        assert self.training
        self.calls += 1
        self.total += 1
        logits += torch.rand(()) * 1e-3  # in place, as with a network's logits
        return F.cross_entropy(self.scale * logits, labels)


def test_the_calls_leave_the_loss_its_mode_and_the_random_stream_as_they_were() -> None:
    loss = Counting().eval()
    state = torch.get_rng_state()
    require_fitting(loss, 10, CPU)
    assert (loss.calls, loss.total.item(), loss.scale.grad, loss.training) == (0, 0.0, None, False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_loss_is_called_in_the_dtype_of_the_training(precision: str) -> None:
    seen: list[torch.dtype] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return F.cross_entropy(logits, labels)

    fit(mlp(loss=loss), precision=precision, max_epochs=1, limit_val_batches=0)
    assert len(set(seen)) == 1


def test_a_fit_refuses_the_loss_before_its_first_step() -> None:
    with pytest.raises(UserError, match="NLLLoss takes log-probabilities"):
        fit(model := mlp(loss=nn.NLLLoss()))
    assert model.global_step == 0


@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (CrossEntropyLoss(ignore_index=9), 9),
        (CompoundLoss([CrossEntropyLoss(ignore_index=9), DiceLoss(ignore_index=9)]), 9),
        (nn.CrossEntropyLoss(ignore_index=9), 9),
        (nn.ModuleList([nn.ModuleList([nn.CrossEntropyLoss(ignore_index=9), FocalLoss(ignore_index=9)])]), 9),
        (nn.ModuleList([nn.CrossEntropyLoss(ignore_index=9), FocalLoss()]), None),  # partly counted
        (functools.partial(F.cross_entropy, ignore_index=9), 9),
        (functools.partial(nn.CrossEntropyLoss(ignore_index=9)), 9),
        (FocalLoss(), None),
        (F.cross_entropy, None),
    ],
)
def test_the_label_that_a_loss_ignores_is_found(loss: Loss, label: int | None) -> None:
    assert ignored_label(loss) == label


# The schedule


def interval_of(schedule, **arguments) -> str:
    return fit(mlp(lr_scheduler=schedule, **arguments)).lr_scheduler_configs[0].interval


def one_cycle(optimizer, total_steps: int = STEPS):
    return schedules.OneCycleLR(optimizer, 0.1, total_steps=total_steps)


def cyclic(optimizer):
    return schedules.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2)


@pytest.mark.parametrize(
    ("schedule", "expected", "begins"),
    [
        (one_cycle, "step", 0),
        (cyclic, "step", 0),
        (lambda o: schedules.ChainedScheduler([cyclic(o), schedules.ExponentialLR(o, 0.9)]), "step", 0),
        (lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, total_iters=4), cyclic(o)], [4]), "step", 4),
        (lambda o: schedules.StepLR(o, 1), "epoch", 0),
        (lambda o: schedules.LambdaLR(o, lambda n: 0.9**n), "epoch", 0),
    ],
)
def test_a_schedule_that_counts_steps_is_stepped_after_each_of_them(
    schedule, expected: str, begins: int, caplog
) -> None:
    trainer = fit(mlp(lr_scheduler=schedule))
    (config,) = trainer.lr_scheduler_configs
    assert config.interval == expected
    (last, *_) = getattr(config.scheduler, "_schedulers", [config.scheduler])[::-1]
    assert last.last_epoch == (STEPS if expected == "step" else EPOCHS) - begins
    assert notices(caplog) == []


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")  # Lightning's advice
def test_an_interval_that_is_given_counts() -> None:
    assert interval_of(lambda o: schedules.StepLR(o, 4), lr_interval="step") == "step"
    assert interval_of(functools.partial(one_cycle, total_steps=EPOCHS), lr_interval="epoch") == "epoch"


@pytest.mark.parametrize(
    ("schedule", "arguments", "told"),
    [
        (
            functools.partial(one_cycle, total_steps=18),
            {},
            r"OneCycleLR\(total_steps=18\) .* step, of which the training has 12",
        ),
        (
            functools.partial(one_cycle, total_steps=6),
            {},
            r"OneCycleLR\(total_steps=6\) .* step, of which the training has 12",
        ),
        (
            functools.partial(one_cycle, total_steps=18),
            {"max_epochs": -1, "max_steps": 5},
            "step, of which the training has 5",
        ),
        (
            functools.partial(one_cycle, total_steps=18),
            {"accumulate_grad_batches": 2},
            "step, of which the training has 6",
        ),
        (lambda o: schedules.ChainedScheduler([one_cycle(o, 18)]), {}, "step, of which the training has 12"),
        (
            lambda o: schedules.SequentialLR(o, [schedules.ConstantLR(o, 0.5, 2), one_cycle(o, 12)], [2]),
            {},
            "has 10 of the 12 steps",
        ),
    ],
)
def test_a_cycle_of_another_length_than_the_training_is_refused(schedule, arguments: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        fit(model := mlp(lr_scheduler=schedule), **arguments)
    assert model.global_step == 0


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (
            lambda o: schedules.CosineAnnealingLR(o, 12),
            r"CosineAnnealingLR\(T_max=12\) .* epoch, of which the training has 3: .* minimum",
        ),
        (lambda o: schedules.CosineAnnealingLR(o, 1), r"T_max=1\) .* the rate rises again"),
        (lambda o: schedules.StepLR(o, 3), r"StepLR\(step_size=3\) .* the rate never changes"),
        (lambda o: schedules.MultiStepLR(o, [5, 9]), r"milestones=5\) .* the rate never changes"),
        (lambda o: schedules.LinearLR(o, total_iters=5), r"total_iters=5\) .* does not reach its end"),
        (lambda o: schedules.PolynomialLR(o, total_iters=2), r"total_iters=2\) .* 0 from then on"),
        (lambda o: schedules.CosineAnnealingWarmRestarts(o, 7), r"T_0=7\)"),
        (lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=2000), r"CyclicLR\(total_size=4000.* no cycle"),
        (
            lambda o: schedules.SequentialLR(o, [schedules.ExponentialLR(o, 0.9), schedules.StepLR(o, 1)], [3]),
            "StepLR never begins: it follows after 3",
        ),
        (lambda o: ReduceLROnPlateau(o, monitor="val/acc", mode="max", patience=10), "the rate is never lowered"),
    ],
)
def test_a_schedule_that_may_be_too_long_gets_one_notice_with_both_numbers(schedule, told: str, caplog) -> None:
    fit(mlp(lr_scheduler=schedule), limit_val_batches=1)
    (message,) = notices(caplog)
    assert re.search(told, message), message


@pytest.mark.parametrize(
    "maker", [schedules.ReduceLROnPlateau, functools.partial(ReduceLROnPlateau, monitor="val/acc")]
)
def test_a_schedule_that_watches_the_metric_in_the_wrong_direction_is_refused(maker) -> None:
    with pytest.raises(UserError, match=r"ReduceLROnPlateau\(mode='min'\) watches val/.* give it mode: max"):
        fit(mlp(lr_scheduler=functools.partial(maker, patience=0)))
    with pytest.raises(UserError, match="mode: min"):
        fit(mlp(lr_scheduler=functools.partial(ReduceLROnPlateau, monitor="val/ece", mode="max", patience=0)))


def test_torchs_plateau_watches_the_metric_of_the_study(caplog) -> None:
    """Accuracy never rises above 2, and the loss always falls below 100."""
    model = mlp(lr_scheduler=functools.partial(schedules.ReduceLROnPlateau, mode="max", threshold=2.0, patience=0))
    assert fit(model).lr_scheduler_configs[0].monitor == "val/f1/macro"
    assert notices(caplog) == ["NOTICE: ReduceLROnPlateau names no monitor, and watches val/f1/macro."]
    model = mlp(lr_scheduler=functools.partial(schedules.ReduceLROnPlateau, patience=0))
    model.monitor = "val/loss"
    assert fit(model).lr_scheduler_configs[0].monitor == "val/loss"
    assert len(notices(caplog)) == 1


def test_the_monitor_that_a_schedule_names_goes_before_the_studys() -> None:
    watch = functools.partial(ReduceLROnPlateau, monitor="val/acc", mode="max", patience=0)
    model = mlp(lr_scheduler=watch)
    model.monitor = "val/f1/macro"
    assert fit(model).lr_scheduler_configs[0].monitor == "val/acc"


def test_a_watched_metric_need_not_be_measured_after_every_epoch() -> None:
    watch = functools.partial(ReduceLROnPlateau, monitor="val/acc", mode="max", threshold=2.0, patience=0)
    trainer = fit(mlp(lr_scheduler=watch), max_epochs=4, check_val_every_n_epoch=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_the_default_schedule_needs_an_end() -> None:
    with pytest.raises(UserError, match="the training has no end: give max_epochs"):
        fit(MLP((8,)), max_epochs=-1)


# The data


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"image_shape": (1, 14, 56)},
            r"the model has image_shape \(1, 14, 56\), and the data TinyDigits have \(1, 28, 28\)",
        ),
        ({"num_classes": 12}, "the model has num_classes 12, and the data TinyDigits have 10"),
    ],
)
def test_data_of_another_shape_than_the_models_are_refused(stage: str, arguments: dict, told: str) -> None:
    """As many pixels, so that no layer notices; more outputs than classes, which nothing notices either."""
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match=told):
        getattr(trainer, stage)(MLP((4,), **arguments), datamodule=TinyDigits())


def test_a_cosine_that_ends_with_the_last_epoch_is_not_warned_of(caplog) -> None:
    fit(mlp(lr_scheduler=lambda o: schedules.CosineAnnealingLR(o, EPOCHS - 1)))
    assert notices(caplog) == []


def test_accumulated_gradients_leave_the_length_in_epochs_as_it_is(caplog) -> None:
    fit(mlp(lr_scheduler=lambda o: schedules.CosineAnnealingLR(o, EPOCHS)), accumulate_grad_batches=2)
    assert notices(caplog) == []


def test_a_schedule_that_the_end_of_the_training_cuts_is_told_its_own_length(caplog) -> None:
    def schedule(optimizer):
        parts = [schedules.LinearLR(optimizer, total_iters=5), schedules.StepLR(optimizer, 1)]
        return schedules.SequentialLR(optimizer, parts, [5])

    fit(mlp(lr_scheduler=schedule))
    cut, never = notices(caplog)
    assert "LinearLR(total_iters=5)" in cut
    assert "StepLR never begins" in never


def test_a_schedule_by_epochs_fits_a_training_by_steps() -> None:
    trainer = fit(mlp(lr_scheduler=lambda o: schedules.StepLR(o, 1)), max_epochs=-1, max_steps=STEPS)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == EPOCHS


def test_a_loss_that_compares_the_images_of_a_batch_is_not_warned_of(caplog) -> None:
    def hardest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")  # (N,)
        return losses[losses > losses.mean()].sum() / len(losses)

    require_fitting(hardest, 3, CPU)
    assert notices(caplog) == []
