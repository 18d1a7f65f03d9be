"""What a fit leaves behind while it runs: metrics.csv, the random state, and the validation predictions."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from losslab.models import Classifier
from losslab.run.predictions import write_predictions
from losslab.run.run_folder import RunFolder, write_whole

FIRST_COLUMNS = ("epoch", "step", "train/loss", "train/acc_running", "train/acc")
"""There from the first row on, so that a row once written stays as it is; `train/acc` comes with the last epoch."""


class Records(Checkpoint):
    """Writes one row of metrics.csv an epoch, and keeps the random state in the checkpoint.

    It is a Checkpoint because Lightning calls those last, behind the model's own end of epoch, and in the order given:
    the row is on disk before the checkpoint that says the epoch is over. After a kill between the two, the epoch is
    trained again and its row replaced, so that every epoch stands there once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self._random_state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.folder.metrics_file.exists():
            with self.folder.metrics_file.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"])
            if torch.cuda.is_available() and self._random_state["cuda"]:
                torch.cuda.set_rng_state_all(self._random_state["cuda"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.rows.append(epoch_row(trainer, trainer.callback_metrics))
        write_rows(self.folder.metrics_file, self.rows)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and isinstance(pl_module, Classifier) and pl_module.evaluated is not None:
            write_predictions(self.folder.predictions_file, pl_module.evaluated)

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random_state = state_dict


def epoch_row(trainer: Trainer, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.csv, for the epoch that ends."""
    values = {key: f"{float(value):.8g}" for key, value in metrics.items()}
    return {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace metrics.csv, at once."""
    columns = list(dict.fromkeys([*FIRST_COLUMNS, *(key for row in rows for key in row)]))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())
