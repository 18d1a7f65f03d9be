"""The progress bar of a study: setting, seed and epoch in training, the best setting so far, the time left."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """A progress bar over all trainings of a study, and a line for each that ends. Use it as a context.

    Args:
        total: trainings of the study; for a search, at most.
        done: trainings that have their result already.
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
            # Where output is not a terminal, the lines are enough.
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._finished = 0

    def __enter__(self) -> "Display":
        self._bar.start()
        # Earlier results do not count for the speed, hence not for the time left.
        self._task = self._bar.add_task("", total=self.total - self.done, count="", best="")
        self.update("", 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, highlight=False, markup=False)

    def progress(self, name: str, trainings: int = 1) -> "TrainingProgress":
        """Return a callback that moves the bar with one training, or with several that are trained as one."""
        return TrainingProgress(self, name, trainings)

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
    """Moves the study's bar with the epochs and batches of one training, at most four times a second."""

    def __init__(self, display: Display, name: str, trainings: int) -> None:
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
