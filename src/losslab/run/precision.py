"""The numbers that a device computes in: `precision: auto`, and how exactly float32 is multiplied."""

from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from losslab.run.config import class_name

AUTO = "auto"

CPU_FLAGS = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors with arithmetic in bfloat16: of x86 the first two, of ARM the last."""


def add_auto(parser: ArgumentParser) -> None:
    """Let the Trainer's precision be "auto", too."""
    action: Any = next(action for action in parser._actions if action.dest == "trainer.precision")
    action._typehint = Literal["auto"] | action._typehint
    action.help = f"{action.help} 'auto': 'bf16-mixed' where the device computes in it, else '32-true'."


def resolve_auto(trainer: Namespace) -> None:
    """Replace a precision of "auto" in the Trainer's parsed arguments by the one that it means on this machine."""
    if trainer.precision == AUTO:
        accelerator = getattr(trainer.accelerator, "class_path", trainer.accelerator)
        trainer.precision = "bf16-mixed" if _computes_in_bf16(_device(accelerator)) else "32-true"


def _device(accelerator: str) -> str:
    """Return the kind of device that an accelerator, given by name or class, computes on: "cuda", "mps", "cpu", ..."""
    name = class_name(accelerator).lower().removesuffix("accelerator")
    if name not in ("auto", "gpu"):
        return name
    if MPSAccelerator.is_available():
        return "mps"
    return "cuda" if CUDAAccelerator.is_available() else "cpu"


def _computes_in_bf16(device: str) -> bool:
    """Return whether a device has arithmetic in bfloat16; where it is emulated, it is slower than float32.

    torch's own answer for a CPU is also True for AVX-512 without bfloat16, where oneDNN emulates it. On systems without
    /proc/cpuinfo, float32 is the safe choice.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not CPU_FLAGS.is_file():
        return False
    lines = (line.partition(":") for line in CPU_FLAGS.read_text(errors="replace").splitlines())
    flags = next((value for name, _, value in lines if name.strip() in ("flags", "Features")), "")
    return not BF16_FLAGS.isdisjoint(flags.split())


def float32_precision() -> dict[str, str]:
    """Return how float32 numbers are multiplied: "ieee", or less exactly as "tf32" or "bf16".

    Returns:
        `matmul` and `convolution` on a GPU, and `matmul_on_cpu`: what torch's fp32_precision, or its older allow_tf32
        and set_float32_matmul_precision, amount to.
    """
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul)
    names = ("matmul", "convolution", "matmul_on_cpu")
    return {name: part.fp32_precision.replace("none", "ieee") for name, part in zip(names, parts, strict=True)}
