"""What is measured anew from a run that was read on the test images, because no result holds it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.special import softmax

from losslab.losses import focal_to_probability
from losslab.report import focal_gamma, reliability
from losslab.run import CommandLine, RunFolder, read_predictions

CONFIDENCE = "test/confidence"
ECE_PSI = "test/ece_psi"


def confidence_metrics(run: RunFolder) -> dict[str, float]:
    """Mean confidence on the test images and, of plain focal loss with gamma > 0, the ECE after psi.

    Args:
        run: a finished run.

    Returns:
        `CONFIDENCE`, the mean of the largest softmax probability, and `ECE_PSI`, both in [0, 1]; {} where the run's
        test predictions are gone.
    """
    file = run.path / "test" / "predictions.npz"
    if not file.exists():
        return {}
    logits, labels = read_predictions(file)
    measured = {CONFIDENCE: float(softmax(logits.astype(float), axis=1).max(axis=1).mean())}
    gamma = focal_gamma(run.config())
    if gamma:
        measured[ECE_PSI] = reliability(focal_to_probability(torch.from_numpy(logits), gamma).numpy(), labels).ece
    return measured


def ensemble_accuracy(runs: Sequence[RunFolder]) -> float | None:
    """The accuracy of the runs' mean probabilities on the test images, in [0, 1]; None where predictions are gone."""
    total, labels = None, None
    for run in runs:
        file = run.path / "test" / "predictions.npz"
        if not file.exists():
            return None
        logits, labels = read_predictions(file)
        probabilities = softmax(logits.astype(float), axis=1)
        total = probabilities if total is None else total + probabilities
    return None if total is None else float((total.argmax(axis=1) == labels).mean())


def parameter_count(config_file: Path) -> int:
    """How many parameters the network of a run's config.yaml has."""
    model = CommandLine(["--config", str(config_file)], "results").build().model
    return sum(parameter.numel() for parameter in model.parameters())
