"""How many trainings a minute a study makes: one by one, in two processes, as a population, and by the default."""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import DEVICE, ROOT, SMALL, Cell, Table, ratios, take_turns

from losslab.study import read_results

REPEATS = 1 if SMALL else 2

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STUDY = """\
experiment: EXPERIMENT
arms:
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
grid:
  model.init_args.loss.init_args.gamma: GAMMAS
seeds: SEEDS
"""


def run_study(
    experiment: str, gammas: int, seeds: int, options: list[str], epochs: int = 1, limit: float | None = None
) -> tuple[float, int]:
    """Run `losslab sweep` from nothing to its tables.

    Args:
        experiment: the name of a shipped one.
        gammas, seeds: their numbers; the study has their product of trainings.
        options: of the command.
        epochs: of a training.
        limit: seconds after which the command is stopped.

    Returns:
        Seconds, start-up included, and the number of trainings that are on disk.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {
            "EXPERIMENT": EXPERIMENTS / f"{experiment}.yaml",
            "GAMMAS": [round(5 * i / gammas, 3) for i in range(gammas)],
            "SEEDS": list(range(seeds)),
        }
        study = STUDY
        for word, value in values.items():
            study = study.replace(word, str(value))
        (folder / "gamma.yaml").write_text(study)
        length = ["--trainer.max_epochs", str(epochs), "--data.source", "embedded" if SMALL else "full"]
        if SMALL:
            length += ["--trainer.limit_train_batches", "3"]
        command = [sys.executable, "-m", "losslab", "sweep", "--config", "gamma.yaml", *length, *options]
        start = time.perf_counter()
        with (folder / "output").open("w+") as output:
            running = subprocess.Popen(
                command, cwd=folder, env=os.environ | {"MNIST_DIR": str(ROOT)}, stdout=output, stderr=output
            )
            try:
                running.wait(limit)
            except subprocess.TimeoutExpired:
                running.terminate()
                running.wait()
            else:
                assert running.returncode == 0, (folder / "output").read_text()[-2000:]
            seconds = time.perf_counter() - start
        return seconds, len(read_results(folder / "runs" / "gamma"))


def rate(experiment: str, gammas: int, seeds: int, options: list[str]) -> float:
    """Trainings a minute of a whole study."""
    seconds, results = run_study(experiment, gammas, seeds, options)
    assert results == gammas * seeds, results
    return 60 * results / seconds


def studies() -> Table:
    """Trainings a minute."""
    many, seeds = DEVICE.type == "cuda", 2
    studied = [
        ("MLP, 784-10-10", "mlp", 2 if SMALL else 16),
        ("CNN, augmented", "cnn", 2 if SMALL else 16 if many else 3),
    ]
    rows: list[list[Cell]] = []
    for label, experiment, count in studied:
        size = count * seeds // (1 if many else 2)
        rates = take_turns(
            {
                way: partial(rate, experiment, count, seeds, options)
                for way, options in {
                    "one by one": ["--workers", "1", "--population", "1"],
                    "two processes": ["--workers", "2", "--population", "1"],
                    f"a population of {size}": ["--workers", "1", "--population", str(size)],
                    "by default": [],
                }.items()
            },
            REPEATS,
        )
        rows += [
            [f"{label}, {count * seeds} trainings: {way}", taken, ratios(taken, rates["one by one"])]
            for way, taken in rates.items()
        ]
    return Table(
        "A study",
        "Trainings a minute of `losslab sweep` over focal's gamma with two seeds, experiments/mlp.yaml and cnn.yaml "
        "with one epoch of 55,000 images at batch 128 each, from the start of the command to its tables. By default "
        f"the command measures a few steps and chooses. Median [lowest, highest] of {REPEATS} interleaved repeats.",
        ["study", "trainings a minute", "of one by one's"],
        rows,
    )
