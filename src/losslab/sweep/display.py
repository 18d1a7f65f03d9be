"""The progress bar of a study: setting, seed and epoch in training, the best setting so far, the time left."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """A progress bar over all trainings of a study, and a line for each that ends. Use it as a context.

    Args:
        total: trainings of the study; for a search, at most.
        done: trainings that have their result already.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.best = ""
        console = Console(soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]} {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            # Where output is not a terminal, the lines are enough.
            disable=not console.is_terminal,
        )
        # Earlier results do not count for the speed, hence not for the time left.
        self._task = self._bar.add_task("", total=total - done, count="", best="")
        self._finished = 0

    def __enter__(self) -> "Display":
        self._bar.start()
        self.update("", 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, highlight=False, markup=False)

    def finish_training(self, line: str) -> None:
        """Count one more training as done, and print a line about it."""
        self._finished += 1
        self.update("", 0.0)
        self.print(line)

    def count_results(self, results: int, description: str) -> None:
        """Show how many trainings of the study have their result, whichever process trained them."""
        self._finished = results - self.done
        self.update(description, 0.0)

    def update(self, description: str, fraction: float) -> None:
        """Redraw the bar, `fraction` of the current training (or trainings) being done."""
        self._bar.update(
            self._task,
            total=self.total - self.done,  # tuning adds some
            completed=self._finished + fraction,
            description=description,
            count=f"{self.done + self._finished}/{self.total}",
            best=f"best {self.best}" if self.best else "",
        )


class TrainingProgress(Callback):
    """Moves the study's bar with one training, or with several trained as one, at most four times a second."""

    def __init__(self, display: Display, name: str, trainings: int = 1) -> None:
        self._display, self._name, self._trainings = display, name, trainings
        self._updated_at = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._updated_at > 0.25:
            self._updated_at = now
            epochs = trainer.max_epochs or 1
            fraction = (trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches) / epochs
            text = f"{self._name} epoch {trainer.current_epoch + 1}/{epochs}"
            self._display.update(text, fraction * self._trainings)
