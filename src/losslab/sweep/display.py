"""One display for a whole study: which setting, seed and epoch, the best so far, the time left."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """A progress bar over all trainings of a study, and a line for each that ends. Use it as a context.

    Args:
        total: how many trainings the study has; for a search, at most.
        done: how many have their result already.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.best = ""
        self._console = Console(soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]} {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            # Where output is not a terminal, the lines say enough.
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._finished = 0

    def __enter__(self) -> "Display":
        self._bar.start()
        # What was done before does not count for the speed, hence not for the time left.
        self._task = self._bar.add_task("", total=self.total - self.done, count="", best="")
        self._show("", 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False)

    def training(self, name: str, trainings: int = 1) -> "TrainingProgress":
        """A callback that shows one training, or several as one."""
        return TrainingProgress(self, name, trainings)

    def training_ended(self, line: str) -> None:
        """Count a training as done, and say so in a line."""
        self._finished += 1
        self._show("", 0.0)
        self.line(line)

    def results(self, results: int, description: str) -> None:
        """Show that so many trainings of the study have their result, whoever trained them."""
        self._finished = results - self.done
        self._show(description, 0.0)

    def _show(self, description: str, fraction: float) -> None:
        assert self._task is not None
        self._bar.update(
            self._task,
            total=self.total - self.done,  # tuning adds some
            completed=self._finished + fraction,
            description=description,
            count=f"{self.done + self._finished}/{self.total}",
            best=f"best {self.best}" if self.best else "",
        )


class TrainingProgress(Callback):
    """Moves the study's bar with the epochs and batches of one training, a few times a second at most."""

    def __init__(self, display: Display, label: str, trainings: int) -> None:
        self._display, self._label, self._trainings = display, label, trainings
        self._shown_at = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._shown_at > 0.25:
            self._shown_at = now
            epochs = trainer.max_epochs or 1
            fraction = (trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches) / epochs
            text = f"{self._label} epoch {trainer.current_epoch + 1}/{epochs}"
            self._display._show(text, fraction * self._trainings)
