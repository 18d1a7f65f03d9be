"""Reliability, ECE and Brier score against the libraries' own."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from losslab.metrics import classification_metrics
from losslab.report.calibration import reliability


def test_ece_is_the_recorded_metric_and_brier_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    logits, labels = torch.from_numpy(random.normal(0, 3, size=(400, 5))), torch.from_numpy(random.integers(0, 5, 400))
    measured = reliability(logits.softmax(dim=1).numpy(), labels.numpy())
    recorded = classification_metrics(logits, labels, "abcde")["ece"]
    assert measured.ece == pytest.approx(float(recorded), abs=1e-6)
    theirs = brier_score_loss(labels.numpy(), logits.softmax(dim=1).numpy(), scale_by_half=False, labels=range(5))
    assert measured.brier == pytest.approx(theirs)


def test_shares_are_a_distribution_and_empty_bins_are_nan() -> None:
    measured = reliability(np.array([[1.0, 0.0], [0.55, 0.45], [0.9, 0.1]]), np.array([0, 1, 0]))
    assert measured.share.sum() == pytest.approx(1)
    assert np.isnan(measured.accuracy[measured.share == 0]).all()
    assert measured.confidence[-1] == pytest.approx(1)
    assert measured.ece == pytest.approx((0.55 + 0.1 + 0) / 3)
    assert measured.brier == pytest.approx((0 + 2 * 0.55**2 + 2 * 0.01) / 3)
