"""The training step on a GPU: images lie there, no step waits for it, precision and determinism are configured.

Most tests run on CPU too.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_digits import TinyDigits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from losslab.data import Augmentation
from losslab.losses import AdaptiveFocalLoss, CrossEntropyLoss, DiceLoss, FocalLoss, LDAMLoss, LogitAdjustedLoss, Loss
from losslab.models import CNN, MLP, Classifier, ResNet, SeparableCNN
from losslab.sweep import Population, PopulationData

DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


class _NoValueIsRead(TorchDispatchMode):
    """Refuses on CPU what would wait on a GPU: a tensor's value as a Python number, and the places of a mask."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), function
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_wait(accelerator: str) -> Iterator[None]:
    if accelerator == "cpu":
        with _NoValueIsRead():
            yield
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoWaitInTheStep(Callback):
    """Guards every step, optimiser included, except the first batch's, in which libraries are set up."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator, self._guard, self.steps = accelerator, contextlib.ExitStack(), 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0:
            self._guard.enter_context(no_wait(self._accelerator))
            self.steps += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._guard.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._guard.close()


def fit(model: LightningModule, data: Any, accelerator: str, **arguments: Any) -> Trainer:
    settings = {
        "max_epochs": 2, "accelerator": accelerator, "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    trainer = Trainer(**settings | arguments)
    trainer.fit(model, datamodule=data)
    return trainer


def check_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the check of target values, as on a GPU."""
    monkeypatch.setattr("losslab.losses.loss.check_values", lambda logits, target: None)


@pytest.mark.parametrize("accelerator", DEVICES)
@pytest.mark.parametrize("network", [MLP, CNN, SeparableCNN, ResNet])
def test_no_step_waits_for_the_device(
    network: type[Classifier], accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_no_values(monkeypatch)
    guard = NoWaitInTheStep(accelerator)
    fit(network(), TinyDigits(batch_size=50, augmentation=Augmentation()), accelerator, callbacks=[guard])
    assert guard.steps == 6


@pytest.mark.parametrize("accelerator", DEVICES)
@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(label_smoothing=0.1), FocalLoss(2), AdaptiveFocalLoss("lambert_w"), DiceLoss(), LDAMLoss(),
        LogitAdjustedLoss(), CrossEntropyLoss(ignore_index=3),
    ],
    ids=repr,
)  # fmt: skip
def test_no_loss_waits_for_the_device(loss: Loss, accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_no_values(monkeypatch)
    guard = NoWaitInTheStep(accelerator)
    fit(MLP(loss=loss), TinyDigits(batch_size=50), accelerator, callbacks=[guard])
    assert guard.steps == 6


@pytest.mark.parametrize("accelerator", DEVICES)
@pytest.mark.parametrize("network", [MLP, CNN])
def test_no_step_of_a_population_waits_for_the_device(
    network: type[Classifier], accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_no_values(monkeypatch)
    guard = NoWaitInTheStep(accelerator)
    population = Population([network(loss=FocalLoss(gamma)) for gamma in (0, 2)])
    datas = [TinyDigits(batch_size=50, augmentation=Augmentation(), seed=seed) for seed in (0, 1)]
    fit(population, PopulationData(datas), accelerator, callbacks=[guard])
    assert guard.steps == 6


def test_a_step_that_waits_is_found() -> None:
    """The guard of the tests above can fail."""

    class ReadsAValue(MLP):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * float(images.max()))

    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        fit(ReadsAValue(), TinyDigits(batch_size=50), "cpu", callbacks=[NoWaitInTheStep("cpu")])


def test_the_guard_of_a_gpu_is_taken_off_again_and_its_warning_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA warns that it does not yet find all waiting, and sets the mode all the same."""
    modes: list[str] = []
    prototype = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"

    def set_mode(mode: str) -> None:
        modes.append(mode)
        if mode == "error":
            warnings.warn(prototype, stacklevel=2)

    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", set_mode)
    with pytest.raises(ZeroDivisionError), no_wait("gpu"):
        raise ZeroDivisionError
    assert modes == ["error", "default"]


@pytest.mark.gpu
def test_the_images_lie_on_the_gpu_as_bytes() -> None:
    data = TinyDigits(batch_size=50)
    fit(MLP(), data, "gpu")
    for part in ("train", "val"):
        images, labels = data.split(part)
        assert images.is_cuda
        assert images.dtype == torch.uint8
        assert labels.is_cuda


@pytest.mark.parametrize(
    ("accelerator", "precision"),
    [
        ("cpu", "bf16-mixed"),
        *(pytest.param("gpu", precision, marks=pytest.mark.gpu) for precision in ("bf16-mixed", "16-mixed")),
    ],
)
def test_mixed_precision_learns_what_float32_learns(accelerator: str, precision: Any) -> None:
    reached = {}
    for name in ("32-true", precision):
        torch.manual_seed(0)
        model = CNN((8, 8, 8), loss=FocalLoss(2), evaluate_train="last_epoch")
        trainer = fit(model, TinyDigits(batch_size=20), accelerator, precision=name, max_epochs=4)
        reached[name] = float(trainer.callback_metrics["train/acc"])
    assert reached["32-true"] > 0.8
    assert reached[precision] == pytest.approx(reached["32-true"], abs=0.1)


@pytest.mark.parametrize("accelerator", DEVICES)
@pytest.mark.parametrize("network", [MLP, CNN, SeparableCNN, ResNet])
def test_deterministic_mode_repeats_a_training_bit_for_bit(network: type[Classifier], accelerator: str) -> None:
    def weights() -> Tensor:
        torch.manual_seed(0)
        model = network()
        fit(model, TinyDigits(batch_size=50, augmentation=Augmentation()), accelerator, deterministic=True)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    try:
        assert torch.equal(weights(), weights())
    finally:
        torch.use_deterministic_algorithms(False)
