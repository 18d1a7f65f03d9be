"""What is kept of the predictions of a study's runs: confidence, ensembles, the spread over images; and parameters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from losslab.losses import focal_to_probability
from losslab.report import TEST_FOLDER, focal_gamma, read_confirmation, reliability
from losslab.run import CommandLine, RunFolder, read_predictions
from losslab.study import read_results

CONFIDENCE = "test/confidence"
ECE_PSI = "test/ece_psi"

DIGITS = 6
"""Digits behind the point of all that is kept."""


def confidence_metrics(run: RunFolder) -> dict[str, float]:
    """Return the mean confidence on the test images and, for plain focal loss with gamma > 0, the ECE after psi.

    Args:
        run: a finished run.

    Returns:
        `CONFIDENCE`, the mean of the largest softmax probability, and `ECE_PSI`, both in [0, 1]; {} if the run's test
        predictions are gone.
    """
    predictions = _test_predictions(run)
    if predictions is None:
        return {}
    logits, labels = predictions
    measured = {CONFIDENCE: float(softmax(logits.astype(float), axis=1).max(axis=1).mean())}
    gamma = focal_gamma(run.config())
    if gamma:
        measured[ECE_PSI] = reliability(focal_to_probability(torch.from_numpy(logits), gamma).numpy(), labels).ece
    return measured


def ensembles(confirm: Path) -> dict[str, float]:
    """Return the accuracy of all runs of a setting together, by its hash, where no run's predictions are gone."""
    runs: dict[str, list[RunFolder]] = {}
    for result in read_results(confirm / TEST_FOLDER):
        runs.setdefault(result["setting_hash"], []).append(RunFolder(confirm / result.get("run", "gone")))
    measured = {setting: ensemble_accuracy(folders) for setting, folders in runs.items()}
    return {setting: round(accuracy, DIGITS) for setting, accuracy in measured.items() if accuracy is not None}


def ensemble_accuracy(runs: Sequence[RunFolder]) -> float | None:
    """Return the accuracy of the runs' mean probabilities on the test images, in [0, 1].

    None if the test predictions of any run are gone.
    """
    total, labels = None, None
    for run in runs:
        predictions = _test_predictions(run)
        if predictions is None:
            return None
        logits, labels = predictions
        probabilities = softmax(logits.astype(float), axis=1)
        total = probabilities if total is None else total + probabilities
    return None if total is None else float((total.argmax(axis=1) == labels).mean())


def image_spread(confirm: Path) -> dict[str, dict[str, float]]:
    """Return how far a setting's mean differences vary with the test images, by its hash and the metric."""
    confirmation = read_confirmation(confirm)
    summary = confirmation.summary if confirmation is not None else None
    if summary is None or summary.family is None:
        return {}
    hashes = {setting.label: setting.setting_hash for setting in summary.settings}
    found: dict[str, dict[str, float]] = {}
    for (label, metric), spread in summary.family.images.items():
        found.setdefault(hashes[label], {})[metric] = round(spread, DIGITS)
    return found


def parameter_count(config_file: Path) -> int:
    """Return the number of parameters of the network in a run's config.yaml."""
    model = CommandLine(["--config", str(config_file)], "results").build().model
    return sum(parameter.numel() for parameter in model.parameters())


def _test_predictions(run: RunFolder) -> tuple[np.ndarray, np.ndarray] | None:
    """Return logits (N, C) and labels (N,), or None if they are gone."""
    file = run.path / "test" / "predictions.npz"
    return read_predictions(file) if file.exists() else None
