"""What a loss costs: forward and backward against torch's cross-entropy, eager, compiled, in memory, in a CNN's step.

`make bench` (needs a C++ compiler for the compiled column). In each repeat all losses take turns, so that a noisy
machine is noisy for all; a ratio is taken within a repeat. The table goes to the terminal and to
tests/benchmarks/LOSSES.md.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, read when it is imported

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losslab.losses import (
    AdaptiveFocalLoss,
    BinaryFocalLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PolyLoss,
    TverskyLoss,
)
from losslab.models import CNN

REPEATS = 9
CLASSES = 10
LARGE, SMALL = 65_536, 256
RESULTS = Path(__file__).with_name("LOSSES.md")

BASELINE, NAIVE = "F.cross_entropy", "naive (1 - p)**gamma * ce"


class NaiveFocal(nn.Module):
    """Focal loss as it is usually written: NaN gradients for gamma < 1, no digits near p = 1."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, label, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** 2.0 * cross_entropy).mean()


def losses() -> dict[str, nn.Module]:
    """What is compared, each with its class counts."""
    ours = [
        CrossEntropyLoss(), FocalLoss(2.0), AdaptiveFocalLoss(), AdaptiveFocalLoss("lambert_w"), BinaryFocalLoss(2.0),
        PolyLoss(1.0), GeneralizedCrossEntropyLoss(0.7), LogitAdjustedLoss(1.0), LDAMLoss(0.5), DiceLoss(),
        DiceLoss(squared=True), TverskyLoss(0.3, 0.7), CompoundLoss([CrossEntropyLoss(), DiceLoss()]),
    ]  # fmt: skip
    for loss in ours:
        loss.set_class_counts(torch.arange(1, CLASSES + 1) * 100)
    names = {repr(loss) if not isinstance(loss, CompoundLoss) else "CrossEntropy + Dice": loss for loss in ours}
    return {BASELINE: nn.CrossEntropyLoss(), NAIVE: NaiveFocal(), **names}


def batch(images: int) -> tuple[Tensor, Tensor]:
    """Logits (N, C) float32 that want a gradient, and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, CLASSES, generator=generator)
    return logits.requires_grad_(), torch.randint(CLASSES, (images,), generator=generator)


def seconds(step: Callable[[], object], calls: int) -> float:
    """Of one call, over several."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def forward_backward(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor) -> Callable[[], None]:
    """One loss and its gradient in the logits."""

    def step() -> None:
        loss(logits, label).backward()
        logits.grad = None  # not at the start: to free an earlier step's would count as memory won back

    return step


def take_turns(steps: dict[str, Callable[[], None]], calls: int) -> dict[str, list[float]]:
    """Seconds a call of every step, one entry a repeat, after a warm-up."""
    for step in steps.values():
        seconds(step, 3)
    measured: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            measured[name].append(seconds(step, calls))
    return measured


def compiled_against_eager(
    loss: nn.Module, baseline: nn.Module, logits: Tensor, label: Tensor
) -> tuple[list[float], list[float]]:
    """Seconds a call of the compiled loss and of the eager baseline, in turns."""
    torch.compiler.reset()
    steps = {
        "compiled": forward_backward(torch.compile(loss, fullgraph=True), logits, label),
        "eager": forward_backward(baseline, logits, label),
    }
    measured = take_turns(steps, 5)
    return measured["compiled"], measured["eager"]


def peak_bytes(step: Callable[[], None]) -> int:
    """The most memory that one call holds at a time beyond what was there before, from torch's profiler."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def cnn_step_seconds() -> list[float]:
    """A training step of the CNN on 256 images with F.cross_entropy: forward, backward, optimiser."""
    torch.manual_seed(0)
    network = CNN().train()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    images, label = torch.rand(SMALL, 1, 28, 28), torch.randint(CLASSES, (SMALL,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), label).backward()
        optimizer.step()

    return take_turns({"step": step}, 5)["step"]


def main() -> None:
    """Measure and write the table."""
    every = losses()
    large, small = batch(LARGE), batch(SMALL)
    eager = take_turns({name: forward_backward(loss, *large) for name, loss in every.items()}, 5)
    memory = {name: peak_bytes(forward_backward(loss, *large)) for name, loss in every.items()}
    in_step = take_turns({name: forward_backward(loss, *small) for name, loss in every.items()}, 50)
    cnn = statistics.median(cnn_step_seconds())
    compiled = {name: compiled_against_eager(loss, every[BASELINE], *large) for name, loss in every.items()}
    lines = [
        f"# What a loss costs: forward and backward, float32, {CLASSES} classes, against torch's eager cross-entropy",
        "",
        f"Median [lowest, highest] of {REPEATS} interleaved repeats. {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}. `F.cross_entropy` takes "
        f"{1e3 * statistics.median(eager[BASELINE]):.1f} ms for {LARGE:,} images; a CNN's training step on {SMALL} "
        f"images takes {1e3 * cnn:.1f} ms. The last column is the loss's own time, forward and backward, as a share of "
        "that step.",
        "",
        f"| loss | eager, {LARGE:,} images | compiled | peak memory | eager, {SMALL} images | of a CNN's step |",
        "|---|---|---|---|---|---|",
    ]
    for name in every:
        shares = [100 * own / cnn for own in in_step[name]]
        lines.append(
            f"| {name} | {_ratio(eager[name], eager[BASELINE])} | {_ratio(*compiled[name])} "
            f"| {memory[name] / memory[BASELINE]:.2f} | {_ratio(in_step[name], in_step[BASELINE])} "
            f"| {statistics.median(shares):.1f} % |"
        )
    focal, naive = (name for name in every if name.startswith(("FocalLoss", "naive")))
    lines += ["", f"FocalLoss against the naive one, eager: {_ratio(eager[naive], eager[focal])}."]
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()
