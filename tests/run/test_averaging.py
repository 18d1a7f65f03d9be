"""Whatever callback averages weights: validated, saved, tested and written are the averages, and no others."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from losslab.cli import main
from losslab.run import CommandLine, Interruption, RunFolder, fit_run, read_predictions

pytestmark = [
    pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch"),
    # SWALR and a schedule that starts with it; upstream's order of calls.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
]

LIGHTNING = "lightning.pytorch.callbacks"
SWA = f"{{class_path: {LIGHTNING}.StochasticWeightAveraging, init_args: {{swa_lrs: 0.01, swa_epoch_start: 2}}}}"
EMA = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9}}"

SLOW = pytest.mark.slow

Weights = dict[str, Tensor]


class EpochAverage(WeightAveraging):
    """Averages after each epoch, and so after the epoch's validation."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


class AverageOnEvaluation(Callback):
    """A user's own: the mean over all steps, which it puts into the network for each validation only."""

    def __init__(self) -> None:
        self.mean: Weights = {}
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.steps += 1
        for name, tensor in pl_module.named_parameters():
            mean = self.mean.setdefault(name, tensor.detach().clone())
            mean += (tensor.detach() - mean) / self.steps

    def exchange(self, pl_module: LightningModule) -> None:
        for name, tensor in pl_module.named_parameters():
            self.mean[name], tensor.data = tensor.data.clone(), self.mean[name].clone()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exchange(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exchange(pl_module)


class Recorder(Callback):
    """Keeps the weights at the start of each epoch, after each step, and at the end of each epoch."""

    def __init__(self) -> None:
        self.starts: list[Weights] = []
        self.steps: list[Weights] = []
        self.ends: list[Weights] = []

    @staticmethod
    def weights(pl_module: LightningModule) -> Weights:
        return {name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.starts.append(self.weights(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.steps.append(self.weights(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append(self.weights(pl_module))


def mean(several: list[Weights]) -> Weights:
    return {name: torch.stack([weights[name] for weights in several]).mean(dim=0) for name in several[0]}


def exponential_mean(several: list[Weights], decay: float = 0.9) -> Weights:
    average = several[0]
    for weights in several[1:]:
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    return average


def options(callback: str, *more: str) -> list[str]:
    return [*more, "--trainer.max_epochs", "4", f"--trainer.callbacks=[{callback}]"]


AVERAGES: dict[str, tuple[str, list[type[Callback]], Callable[[Recorder], Weights]]] = {
    "SWA": (SWA, [], lambda recorder: mean(recorder.starts[1:])),
    "EMA": (EMA, [], lambda recorder: exponential_mean(recorder.steps)),
    "after the validation": ("", [EpochAverage], lambda recorder: mean(recorder.ends)),
    "a user's, on evaluation": ("", [AverageOnEvaluation], lambda recorder: mean(recorder.steps)),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW if "after" in kind else ()) for kind in AVERAGES])
def test_all_that_a_run_holds_is_of_the_averages(tiny_mlp: list[str], kind: str) -> None:
    callback, further, average = AVERAGES[kind]
    recorder, path = Recorder(), Path("runs/tiny/one")
    command_line = CommandLine(options(callback, *tiny_mlp), "losslab fit")
    fitted = fit_run(command_line, path, False, [recorder, *(each() for each in further)])
    run = RunFolder(path)

    saved = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    expected = average(recorder)
    assert set(expected) <= set(saved)
    for name, tensor in expected.items():
        assert torch.allclose(saved[name], tensor, atol=1e-5), name
        assert not torch.allclose(saved[name], recorder.steps[-1][name], atol=1e-3), name

    # The network, computed from what last.ckpt holds, gives the logits and the metrics that the run has.
    _, model, data = command_line.build()
    data.setup("fit")
    model.load_state_dict(saved)
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in data.val_dataloader()])
        labels = torch.cat([labels for _, labels in data.val_dataloader()])
        of_train = [(model(x).argmax(1) == y).float() for x, y in data.evaluation_dataloader("train")]
    assert np.allclose(read_predictions(run.predictions_file)[0], logits, atol=1e-5)
    row = run.epochs()[-1]
    accuracy = float((logits.argmax(1) == labels).float().mean())
    assert [float(row["val/acc"]), fitted.metrics["val/acc"]] == pytest.approx([accuracy] * 2)
    train_accuracy = float(torch.cat(of_train).mean())
    assert [float(row["train/acc"]), fitted.metrics["train/acc"]] == pytest.approx([train_accuracy] * 2)
    assert [row["epoch"] for row in run.epochs()] == ["0", "1", "2", "3"]

    # best.ckpt holds what had the best validation.
    model.load_state_dict(torch.load(run.checkpoint("best"), weights_only=True)["state_dict"])
    with torch.no_grad():
        best = torch.cat([model(x).argmax(1) == y for x, y in data.val_dataloader()]).float().mean()
    top = max(run.epochs(), key=lambda row: float(row["val/f1/macro"]))
    assert float(best) == pytest.approx(float(top["val/acc"]))


@SLOW
def test_averages_with_batch_norm_have_statistics_of_their_own(tiny_mlp: list[str]) -> None:
    recorder, path = Recorder(), Path("runs/tiny/one")
    network = ["--model", "ResNet", "--model.widths", "[4]"]
    # Without a validation after the last epoch but one, its last gradient would still be there for the extra epoch.
    command_line = CommandLine(
        options(SWA, *tiny_mlp, *network, "--trainer.check_val_every_n_epoch", "5"), "losslab fit"
    )
    fitted = fit_run(command_line, path, False, [recorder])
    run = RunFolder(path)
    assert run.status() == "finished"
    saved = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    for name, tensor in mean(recorder.starts[1:4]).items():
        assert torch.allclose(saved[name], tensor, atol=1e-5), name
    # The fifth row is of the pass that computes the statistics.
    assert [row["epoch"] for row in run.epochs()] == ["0", "1", "2", "3", "4"]
    assert main(["validate", "--run", str(path)]) == 0
    again = json.loads((path / "validate" / "metrics.json").read_text())["metrics"]
    for key, value in again.items():
        assert fitted.metrics[key] == pytest.approx(value, abs=1e-5), key
        assert float(run.epochs()[-1][key]) == pytest.approx(value, abs=1e-5), key


@pytest.mark.parametrize("callback", [SWA, pytest.param(EMA, marks=SLOW)], ids=["SWA", "EMA"])
def test_a_run_with_averages_that_is_continued_ends_as_if_undisturbed(
    tiny_mlp: list[str], monkeypatch: pytest.MonkeyPatch, callback: str
) -> None:
    words = options(callback, *tiny_mlp)
    assert main(["fit", *words, "--name", "whole"]) == 0
    finish_batch = Interruption.on_train_batch_end

    def stop_in_the_second_epoch(self: Interruption, trainer: Trainer, *arguments) -> None:
        if trainer.global_step == 15:
            self._note(signal.SIGINT, None)
        finish_batch(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "on_train_batch_end", stop_in_the_second_epoch)
        assert main(["fit", *words]) == 130
    assert main(["fit", *words, "--ckpt_path", "last"]) == 0
    (whole,), (continued,) = (list(Path("runs", name).iterdir()) for name in ("whole", "tiny"))
    assert RunFolder(continued).epochs() == RunFolder(whole).epochs()
    ours, theirs = (
        torch.load(RunFolder(path).checkpoint("last"), weights_only=True)["state_dict"] for path in (whole, continued)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
