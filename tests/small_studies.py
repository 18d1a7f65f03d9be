"""Small real studies, each of a few seconds, and their trials and results."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tiny_digits import TinyDigits

from losslab.cli import main
from losslab.study import read_results

GAMMA_PATH = "model.init_args.loss.init_args.gamma"

EXPERIMENT = """\
model:
  class_path: losslab.models.MLP
  init_args: {hidden: [16], loss: {class_path: losslab.losses.FocalLoss}}
data:
  class_path: tiny_digits.TinyDigits
  init_args: {batch_size: 20}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
"""

GAMMA = """\
experiment: tiny.yaml
arms:
  focal:
    model.init_args.loss: {class_path: losslab.losses.FocalLoss}
grid:
  model.init_args.loss.init_args.gamma: [0, 2, 5]
seeds: [0, 1, 2, 3, 4, 5]
baseline: {arm: focal, model.init_args.loss.init_args.gamma: 0}
family: [val/precision/macro, val/recall/macro]
"""

GRID = f"""\
experiment: tiny.yaml
arms: {{focal: {{model.init_args.loss: {{class_path: losslab.losses.FocalLoss}}}}}}
grid: {{{GAMMA_PATH}: [0, 1, 2, 3]}}
seeds: [0, 1]
"""
GRID_PLANNED = Counter((gamma, seed) for gamma in (0, 1, 2, 3) for seed in (0, 1))

SINGLE = """\
experiment: tiny.yaml
arms: {dice: {model.init_args.loss: {class_path: losslab.losses.DiceLoss}}}
grid: {data.init_args.batch_size: [20]}
seeds: [0]
"""

SEARCH = """\
experiment: tiny.yaml
arms:
  narrow: {model.init_args.hidden: [4]}
  fragile: {model.init_args.loss: {class_path: fragile_loss.FragileLoss}}
space:
  model.init_args.loss.init_args.gamma:
    class_path: optuna.distributions.FloatDistribution
    init_args: {low: 0.0, high: 5.0}
arm_space:
  narrow:
    model.init_args.dropout:
      class_path: optuna.distributions.FloatDistribution
      init_args: {low: 0.0, high: 0.5}
trials: 14
seeds: [0, 1]
pruner: {class_path: optuna.pruners.MedianPruner, init_args: {n_startup_trials: 1, n_warmup_steps: 0}}
"""
"""Trials of it are pruned, and trials of it fail."""

HOSTILE = """\
experiment: tiny.yaml
arms:
  "</script><script>document.title='owned'</script>": {model.init_args.hidden: [6]}
  "<img src=x onerror=alert(1)>": {model.init_args.hidden: [4]}
  "{{7*7}} %{x} @ink ' \\" & &amp;": {model.init_args.hidden: [5]}
grid:
  model.init_args.loss.init_args.gamma: [1]
seeds: [0, 1]
baseline: {arm: "<img src=x onerror=alert(1)>", model.init_args.loss.init_args.gamma: 1}
"""


TUNED = """\
experiment: tiny.yaml
arms:
  cross-entropy: {model.init_args.loss: {class_path: losslab.losses.CrossEntropyLoss}}
  focal: {model.init_args.loss: {class_path: losslab.losses.FocalLoss}}
  dice: {model.init_args.loss: {class_path: losslab.losses.DiceLoss}}
tune:
  model.init_args.optimizer.init_args.lr: [0.0005, 0.001, 0.002]
seeds: [0, 1]
baseline: {arm: cross-entropy}
"""
TUNED_ONCE = TUNED.replace("seeds:", "tune_per: study\nseeds:")
"""One learning rate for all seeds."""
LOSSES = TUNED.split("tune:")[0] + TUNED[TUNED.index("seeds:") :]
"""The same losses at the experiment's learning rate."""
LEARNING_RATES = [0.0005, 0.001, 0.002]
LR = "model.init_args.optimizer.init_args.lr"
TUNED_EXPERIMENT = EXPERIMENT.replace(
    "{hidden: [16],", "{hidden: [16], optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001}},"
)


class HostileDigits(TinyDigits):
    """Classes whose names are markup, script, templates, and names of colours and axes."""

    data_name = "digits <b onmouseover=alert(2)>"
    class_names = (
        "<script>alert(3)<\\script>", "<td><h1>4", "\"><img src=x onerror=alert(5)>", "%{y}", "{{8*8}}",
        "@c1", "2026-01-01", "<b>bold<i>", "&lt;&", "tail",
    )  # fmt: skip

    default_val_size = 50


def run_study(folder: Path, name: str, study: str, *options: str, experiment: str = EXPERIMENT) -> Path:
    """Run a study in `folder`; returns runs/<name>."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        Path("tiny.yaml").write_text(experiment)
        Path("study.yaml").write_text(study)
        assert main(["sweep", "--config", "study.yaml", "--name", name, *options]) == 0
    return folder / "runs" / name


def trials(name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of runs/<name>, from its journal."""
    storage = JournalStorage(JournalFileBackend(f"runs/{name}/journal.log"))
    return optuna.load_study(study_name=name, storage=storage).trials


def trained(name: str) -> Counter[tuple[float, int]]:
    """How many results runs/<name> has for each gamma and seed."""
    return Counter((r["setting"]["values"][GAMMA_PATH], r["seed"]) for r in read_results(Path("runs", name)))


def comparable_results(name: str) -> list[dict[str, Any]]:
    """The results of runs/<name>, without times and the like."""
    kept = ("label", "setting", "setting_hash", "order", "seed", "metrics")
    return [{key: result[key] for key in kept} for result in read_results(Path("runs", name))]
