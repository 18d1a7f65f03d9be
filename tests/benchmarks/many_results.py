"""What a study of 10,000 trainings costs beside them: its report, and the start of the command that goes on."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import ROOT, SMALL, Cell, Table, ratios

GAMMAS = 4 if SMALL else 40
SEEDS = (2, 4) if SMALL else (5, 25, 250)
MLP_FILE = Path(__file__).parents[2] / "experiments" / "mlp.yaml"
STUDY = f"""\
experiment: {MLP_FILE}
arms:
  focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}
grid:
  model.init_args.loss.init_args.gamma: {[round(5 * i / GAMMAS, 3) for i in range(GAMMAS)]}
seeds: {list(range(SEEDS[-1] + 1))}
baseline: {{arm: focal, model.init_args.loss.init_args.gamma: 0}}
"""
LOSSLAB = [sys.executable, "-m", "losslab"]
SHORT = ["--data.source", "embedded", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]


def sweep(population: int) -> list[str]:
    """The study's command; it has a seed more than there will be results."""
    return [*LOSSLAB, "sweep", "--config", "many.yaml", *SHORT, "--workers", "1", "--population", str(population)]


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a command of losslab there, in silence."""
    environment = os.environ | {"MNIST_DIR": str(ROOT)}
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def train_until(seed: int, results: int, command: list[str], folder: Path) -> float:
    """Seconds from the command to as many results of the seed; the command is then stopped."""
    began = time.perf_counter()
    process = start(command, folder)
    while len(list(folder.glob(f"runs/many/results/*/{seed}.json"))) < results:
        assert process.poll() is None, (folder / "said").read_text()[-2000:]
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    process.terminate()
    process.wait()
    return seconds


def multiply(study: Path, first: int, seeds: int) -> None:
    """Write the results, runs and trials of seeds `first` to `seeds` - 1, as those of seed 0 with other metrics.

    The journal holds all trials already, as they wait, seed by seed.
    """
    entries = [json.loads(line) for line in (study / "journal.log").read_text().splitlines()]
    finished = [entry for entry in entries if "trial_id" in entry and entry["trial_id"] < GAMMAS * first]
    of_first = [entry for entry in finished if entry["trial_id"] < GAMMAS]
    kept = [entry for entry in entries if "trial_id" not in entry] + finished
    for seed in range(first, seeds):
        for entry in of_first:
            copy = entry | {"trial_id": entry["trial_id"] + GAMMAS * seed}
            if copy.get("param_name") == "seed":
                copy["param_value_internal"] = seed
            kept.append(copy)
    (study / "journal.log").write_text("".join(f"{json.dumps(entry)}\n" for entry in kept))
    draw = random.Random(first)
    for result in list(study.glob("results/*/0.json")):
        content = json.loads(result.read_text())
        run = study / content["run"]
        for seed in range(first, seeds):
            metrics = {key: value * draw.uniform(0.98, 1) for key, value in content["metrics"].items()}
            ours = run.with_name(f"seed-{seed}")
            shutil.rmtree(ours, ignore_errors=True)  # of a training that was stopped
            ours.mkdir()
            for file in run.iterdir():
                if file.is_file():
                    os.link(file, ours / file.name)
            changed = {"seed": seed, "metrics": metrics, "run": str(ours.relative_to(study))}
            result.with_name(f"{seed}.json").write_text(json.dumps(content | changed, indent=1))


def report(folder: Path) -> tuple[float, float, float]:
    """Seconds and peak MB of `losslab report`, and the page's MB."""
    began = time.perf_counter()
    process = start([*LOSSLAB, "report", "runs/many"], folder)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, (folder / "said").read_text()[-2000:]
    return seconds, used.ru_maxrss / 1024, (folder / "runs/many/report.html").stat().st_size / 2**20


def many_results() -> Table:
    """Reports and starts of large studies."""
    rows: list[list[Cell]] = []
    first: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many.yaml").write_text(STUDY)
        train_until(0, GAMMAS, sweep(GAMMAS), folder)
        before = 1
        for seeds in SEEDS:
            multiply(folder / "runs" / "many", before, seeds)
            before = seeds
            seconds, memory, page = report(folder)
            size = [[seconds], [memory], [page]]
            first = first or size
            rows.append([f"{GAMMAS * seeds:,}", size[0], ratios(size[0], first[0]), size[1], size[2], ""])
        rows[-1][-1] = [train_until(before, 1, sweep(1), folder)]
    return Table(
        "Large studies",
        f"Seconds of `losslab report`, its start included, for studies of {GAMMAS} settings, the most memory that it "
        "held, the size of its page, and seconds from the command that goes on to its first new result (a training of "
        "two steps). The results of the first seed are real, the others copies with other "
        "metrics. Measured once.",
        ["trainings", "report, seconds", "of the first row's", "peak MB", "page, MB", "until the next result, seconds"],
        rows,
    )
