"""`make bench-gpu OUT=folder`: losslab on a GPU in stages, within ten minutes, without network or set-up.

    python gpu.py OUT [SECONDS]           all stages, the most valuable first, in at most SECONDS (560)
    BENCH_SMALL=1 python gpu.py OUT       the same stages at tiny size, also on a CPU
    python gpu.py --stage OUT NAME...     some of losslab's own stages, in this process

The Python that runs it needs torch, torchvision, torchmetrics and lightning; PYTHONPATH holds what else losslab needs
(and pytest), MNIST_DIR the images. A stage is a process with a time limit; one that fails or takes too long does not
stop the next. As soon as they are there, results are in OUT/results.jsonl, how the stages ended in OUT/stages.jsonl,
what they printed in OUT/log.txt, and all of it for people in OUT/summary.md, whose table names the card.
"""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = bool(os.environ.get("BENCH_SMALL"))
TOTAL_SECONDS = 560.0
SOURCE = ["--data.source", "embedded" if SMALL else "full"]
LENGTH = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"] if SMALL else []
CNN_FILE = str(REPOSITORY / "experiments" / "cnn.yaml")
GAMMAS, SEEDS, EPOCHS = (2, 1, 1) if SMALL else (12, 5, 3)
"""A study of 60 trainings of three epochs."""


class Stage(NamedTuple):
    """A process: its words after `python`, and the seconds that it may take."""

    name: str
    seconds: float
    words: list[str]


def stages(out: Path) -> list[Stage]:
    """The most valuable first."""
    tests = [str(file) for file in (REPOSITORY / "tests").rglob("test_*.py") if "pytest.mark.gpu" in file.read_text()]
    several = ["-n", "4"] if importlib.util.find_spec("xdist") and not SMALL else []
    # A warning that only another torch has should not fail them all: the log shows it.
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "-m", "gpu", *several, *sorted(tests)]
    own = {
        "steps": 90, "epoch": 45, "time_to_99": 45, "study_as_population": 80, "study_of_4_processes": 70,
        "study_one_by_one": 70, "profile": 30, "modes": 40, "out_of_memory": 30,
    }  # fmt: skip
    fit = ["-m", "losslab", "fit", "--config", CNN_FILE, *SOURCE, *LENGTH, "--name", "gpu"]
    measured = [Stage(name, seconds, [__file__, "--stage", str(out), name]) for name, seconds in own.items()]
    return [
        Stage("machine", 60, [__file__, "--stage", str(out), "machine"]),
        Stage("fit", 60, fit),
        Stage("test", 45, ["-m", "losslab", "test", "--run", "runs/gpu", *SOURCE]),
        Stage("gpu_tests", 120, pytest),
        *measured,
    ]


def run_all(out: Path, total: float) -> int:
    """Run the stages; 0 if all ended well, 1 if not."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "stages.jsonl", "log.txt", "summary.md"):
        (out / name).unlink(missing_ok=True)
    end, ended = time.monotonic() + total, []
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    if "MNIST_DIR" in environment:
        environment["MNIST_DIR"] = str(Path(environment["MNIST_DIR"]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages(out):
            left = end - time.monotonic()
            how = {"outcome": "no time left"}
            if left > 5:  # less would not even import torch
                how = _run(stage, min(stage.seconds, left), out, folder, environment)
            ended.append({"stage": stage.name, **how})
            print(json.dumps(ended[-1]), flush=True)
            _append(out / "stages.jsonl", ended[-1])
            _summarise(out, ended)
            if stage.name == "machine" and how["outcome"] != "ok":
                break
    return int(any(one["outcome"] != "ok" for one in ended))


def _run(stage: Stage, seconds: float, out: Path, folder: str, environment: dict[str, str]) -> dict[str, Any]:
    start = time.monotonic()
    said = Path(folder) / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *stage.words], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = "too long"
            os.killpg(process.pid, 15)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # what it started, too
        process.wait()
    lines = said.read_text(errors="replace").splitlines()
    with (out / "log.txt").open("a") as log:
        log.write("\n".join([f"=== {stage.name}: {status}", *lines[-400:], ""]))
    outcome = {"outcome": "ok" if status == 0 else f"exit status {status}" if status != "too long" else status}
    last = next((line for line in reversed(lines) if line.strip()), "")
    return outcome | {"seconds": round(time.monotonic() - start, 1), "said_last": last[:300]}


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _summarise(out: Path, ended: list[dict[str, Any]]) -> None:
    results = out / "results.jsonl"
    measured = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    machine = next((one["machine"] for one in measured if "machine" in one), "the machine's description is missing")
    lines = ["## On a GPU", "", f"{machine}.{' Tiny sizes: no measurement.' if SMALL else ''}", ""]
    lines += ["| measured | result |", "|---|---|"]
    for one in measured:
        own = {key.replace("_", " "): value for key, value in one.items() if key not in ("measured", "machine")}
        values = ", ".join(f"{key} {value}" for key, value in own.items())
        lines.append(f"| {one['measured']} | {values} |".replace("\n", " "))
    lines += ["", "| stage | how it ended | seconds | its last line, if not well |", "|---|---|---|---|"]
    for one in ended:
        last = "" if one["outcome"] == "ok" and one["stage"] != "gpu_tests" else one.get("said_last", "")
        lines.append(f"| {one['stage']} | {one['outcome']} | {one.get('seconds', '')} | {last.replace('|', '/')} |")
    (out / "summary.md").write_text("\n".join(lines) + "\n")


# What follows runs in the stages' own processes: torch and losslab are imported there.


def put(measured: str, **values: Any) -> None:
    """Keep a result at once."""
    values = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
    _append(Path(sys.argv[2]) / "results.jsonl", {"measured": measured, **values})


def noting_errors(measured: str, call: Callable[[], dict[str, Any]]) -> None:
    """Keep what it returns, or its error: the next measurement goes on."""
    try:
        put(measured, **call())
    except Exception as error:
        put(measured, error=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def machine_stage() -> None:
    """Name the machine, and import all that is needed."""
    import torch
    from measure import machine

    import losslab.cli
    import losslab.run.fit
    import losslab.sweep.command  # noqa: F401

    if not torch.cuda.is_available() and not SMALL:
        raise SystemExit("bench-gpu: torch finds no CUDA device; BENCH_SMALL=1 tries the stages on a CPU")
    matmul = torch.backends.cuda.matmul.fp32_precision
    put("machine", machine=machine(), float32_matmul=matmul, convolution=torch.backends.cudnn.conv.fp32_precision)


def steps_stage() -> None:
    """A step alone and of populations: milliseconds, operations, memory."""
    import torch
    from members import operations, step_ms

    def one(network: str, size: int) -> dict[str, Any]:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        milliseconds = step_ms(network, size, 3 if SMALL else max(20, 200 // max(size, 1)))
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else "-"
        values = {"ms": milliseconds, "ms_a_member": milliseconds / max(size, 1)}
        return values | {"operations": operations(network, size), "peak_MB": peak}

    for network in ("CNN", "MLP"):
        for size in (0, 2) if SMALL else (0, 1, 16, 60):
            what = f"a step of a population of {size}" if size else "a step alone"
            noting_errors(f"{network}: {what}", partial(one, network, size))


def epoch_stage() -> None:
    """An epoch through the Trainer and in a bare loop."""
    from epoch import bare_loop, cnn, mlp, through_trainer
    from measure import mnist

    data = mnist()
    for name, build in (("CNN", cnn), ("MLP", mlp)):
        ways: dict[str, Callable[[], float]] = {
            "": partial(through_trainer, build, lambda: {"datamodule": data}),
            " in bf16": partial(through_trainer, build, lambda: {"datamodule": data}, precision="bf16-mixed"),
            ", bare loop": partial(bare_loop, build, data, None),
        }
        for way, call in ways.items():
            noting_errors(f"{name}: an epoch{way}", lambda call=call: {"seconds": call()})


def time_to_99_stage() -> None:
    """Both recipes, warm."""
    from time_to_99 import race

    reached, precision = race(range(30, 31 if SMALL else 33))
    for name, runs in reached.items():
        accuracy = sum(run[-1][1] for run in runs) / len(runs)
        seconds = [float(f"{run[-1][0]:.4g}") for run in runs]
        epochs = len(runs[0])
        put(f"99 %: {name}, {precision if name == 'fast' else 'float32'}", epochs=epochs, seconds=seconds,
            validation_accuracy=accuracy)  # fmt: skip


def study_stage(options: list[str], limit: float) -> None:
    """A study from the command to its page; what is done when the time is over, if it takes too long."""
    from study import run_study

    seconds, results = run_study("cnn", GAMMAS, SEEDS, options, EPOCHS, limit)
    put(f"a study of {GAMMAS * SEEDS} CNNs, {EPOCHS} epochs each: `{' '.join(options)}`", trainings_done=results,
        seconds=seconds, trainings_a_minute=60 * results / seconds)  # fmt: skip


def profile_stage() -> None:
    """How long the device is busy in a step, and by how many kernels."""
    import torch
    from lightning.pytorch import Callback
    from measure import now
    from members import fit

    first, last = (2, 4) if SMALL else (20, 40)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    class Profile(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == first:
                self.profile = torch.profiler.profile(activities=activities)
                self.start = now()
                self.profile.__enter__()
            elif batch_idx == last:
                self.seconds = now() - self.start
                self.profile.__exit__(None, None, None)

    def one(size: int) -> dict[str, Any]:
        profile = Profile()
        fit("CNN", size, profile, limit_train_batches=last + 1, limit_val_batches=1)
        events = profile.profile.events() or []
        kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        steps = last - first
        longest: dict[str, float] = {}
        for event in kernels:
            longest[event.name[:60]] = longest.get(event.name[:60], 0) + event.device_time / steps
        top = sorted(longest.items(), key=lambda pair: -pair[1])[:4]
        busy = sum(longest.values())
        return {
            "wall_ms_with_profiler": 1e3 * profile.seconds / steps, "device_busy_ms": busy / 1e3,
            "kernels": len(kernels) / steps, "longest_us": {name: round(value, 1) for name, value in top},
        }  # fmt: skip

    for size in (0, 2) if SMALL else (0, 16, 60):
        what = f"a step of a population of {size}" if size else "a step alone"
        noting_errors(f"CNN profiled: {what}", partial(one, size))


def modes_stage() -> None:
    """Does it train deterministically, and in each precision?"""
    import torch
    from lightning.pytorch import Trainer
    from measure import QUIET, StepSeconds, mnist
    from members import fit

    from losslab import models

    short = {"limit_train_batches": 8, "limit_val_batches": 1, "max_epochs": 1}

    def alone(network: str, **trainer: Any) -> dict[str, Any]:
        model = getattr(models, network)()
        Trainer(**{**QUIET, **short, **trainer}).fit(model, datamodule=mnist())
        return {"outcome": "trained"}

    def together(**trainer: Any) -> dict[str, Any]:
        fit("CNN", 2, StepSeconds(2), **{**short, **trainer})
        return {"outcome": "trained"}

    for mode in ({"deterministic": True}, {"precision": "bf16-mixed"}, {"precision": "16-mixed"},
                 {"precision": "64-true"}):  # fmt: skip
        name = str(next(iter(mode.values()))) if "precision" in mode else "deterministic"
        for network in ("CNN", "ResNet", "SeparableCNN") if "deterministic" in mode and not SMALL else ("CNN",):
            noting_errors(f"{name}: {network}", partial(alone, network, **mode))
        noting_errors(f"{name}: a population of 2 CNNs", partial(together, **mode))
        torch.use_deterministic_algorithms(False)


def out_of_memory_stage() -> None:
    """What `losslab fit` says where memory does not suffice."""
    import torch

    from losslab.cli import main

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(600 * 2**20 / total)
    else:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
    huge = (
        ["--data.batch_size", "3500", "--model.widths", "[64, 128, 256]"] if SMALL else ["--data.batch_size", "50000"]
    )
    fit = ["fit", "--config", CNN_FILE, *SOURCE, *huge, "--name", "memory"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(fit)
    message = next((line for line in said.getvalue().splitlines() if "out of memory" in line), said.getvalue()[-300:])
    put("600 MB for a fit with a huge batch", exit_status=status, message=message)


STUDIES: dict[str, tuple[list[str], float]] = {
    "study_as_population": (["--workers", "1", "--population", str(GAMMAS * SEEDS)], 65),
    "study_of_4_processes": (["--workers", "2" if SMALL else "4", "--population", "1"], 50),
    "study_one_by_one": (["--workers", "1", "--population", "1"], 50),
}


def run_stages(names: list[str]) -> None:
    """Run stages in this process."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, read when it is imported
    from measure import be_quiet

    be_quiet()
    for name in names:
        if name in STUDIES:
            study_stage(*STUDIES[name])
        else:
            globals()[f"{name}_stage"]()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        run_stages(sys.argv[3:])
    elif len(sys.argv) in (2, 3):
        sys.exit(run_all(Path(sys.argv[1]).resolve(), float(sys.argv[2]) if len(sys.argv) == 3 else TOTAL_SECONDS))
    else:
        sys.exit("bench-gpu: error: give the folder of the results: make bench-gpu OUT=folder")
