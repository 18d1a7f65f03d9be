"""What a loss costs: forward and backward against torch's cross-entropy, eager, compiled, in memory, in a CNN's step.

The compiled column needs a C++ compiler.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measure import SMALL, Cell, Table, ratios, shown, take_turns
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

REPEATS = 1 if SMALL else 5
CLASSES = 10
LARGE, FEW = 4_096 if SMALL else 65_536, 256

BASELINE, NAIVE = "F.cross_entropy", "naive (1 - p)**gamma * ce"


class NaiveFocal(nn.Module):
    """Focal loss as it is usually written: NaN gradients for gamma < 1, no digits near p = 1."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, label, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** 2.0 * cross_entropy).mean()


def contenders() -> dict[str, nn.Module]:
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


def in_turns(steps: dict[str, Callable[[], None]], calls: int) -> dict[str, list[float]]:
    """Seconds a call of every step, after a warm-up."""
    for step in steps.values():
        seconds(step, 3)
    return take_turns({name: partial(seconds, step, calls) for name, step in steps.items()}, REPEATS)


def compiled_against_eager(
    loss: nn.Module, baseline: nn.Module, logits: Tensor, label: Tensor
) -> tuple[list[float], list[float]]:
    """Seconds a call of the compiled loss and of the eager baseline, in turns."""
    torch.compiler.reset()
    steps = {
        "compiled": forward_backward(torch.compile(loss, fullgraph=True), logits, label),
        "eager": forward_backward(baseline, logits, label),
    }
    measured = in_turns(steps, 5)
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
    images, label = torch.rand(FEW, 1, 28, 28), torch.randint(CLASSES, (FEW,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), label).backward()
        optimizer.step()

    return in_turns({"step": step}, 5)["step"]


def losses() -> Table:
    """Each loss's own time and memory."""
    every = contenders()
    large, small = batch(LARGE), batch(FEW)
    eager = in_turns({name: forward_backward(loss, *large) for name, loss in every.items()}, 5)
    memory = {name: peak_bytes(forward_backward(loss, *large)) for name, loss in every.items()}
    in_step = in_turns({name: forward_backward(loss, *small) for name, loss in every.items()}, 50)
    cnn = statistics.median(cnn_step_seconds())
    compiled = {name: compiled_against_eager(loss, every[BASELINE], *large) for name, loss in every.items()}
    rows: list[list[Cell]] = [
        [
            name,
            ratios(eager[name], eager[BASELINE]),
            ratios(*compiled[name]),
            [memory[name] / memory[BASELINE]],
            ratios(in_step[name], in_step[BASELINE]),
            [100 * statistics.median(in_step[name]) / cnn],
        ]
        for name in every
    ]
    focal = repr(FocalLoss(2.0))
    return Table(
        "What a loss costs",
        f"Forward and backward, float32, {CLASSES} classes, on CPU, as ratios to torch's eager `F.cross_entropy`, "
        f"which takes {1e3 * statistics.median(eager[BASELINE]):.1f} ms for {LARGE:,} images. The last column is the "
        f"loss's own time on {FEW} images, forward and backward, as a share of a CNN's training step on them, "
        f"{1e3 * cnn:.1f} ms. Median [lowest, highest] of {REPEATS} interleaved repeats. FocalLoss takes "
        f"{shown(ratios(eager[focal], eager[NAIVE]))} of the naive one's time, eager.",
        ["loss", f"eager, {LARGE:,} images", "compiled", "peak memory", f"eager, {FEW} images", "% of a CNN's step"],
        rows,
    )
