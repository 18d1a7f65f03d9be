"""Seconds a step."""

import pytest
from lightning.pytorch import Trainer
from tiny_digits import TinyDigits

from losslab.models import MLP
from losslab.sweep.stopwatch import MEASURED, WARM_UP, Stopwatch


@pytest.mark.parametrize(("batch_size", "steps"), [(4, WARM_UP + MEASURED), (100, 2)])
def test_it_leaves_the_first_steps_out_and_ends_when_it_knows(
    batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which the first step takes 100 seconds and any other one takes 2."""
    clock = Stopwatch()
    trainer = Trainer(
        max_epochs=9, accelerator="cpu", callbacks=[clock], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    monkeypatch.setattr("losslab.sweep.stopwatch.time.perf_counter", lambda: 100 + 2 * trainer.global_step)
    assert clock.measure(trainer, MLP(), TinyDigits(batch_size=batch_size)) == 2
    assert trainer.global_step == steps
