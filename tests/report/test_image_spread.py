"""The spread over the test images is the bootstrap's, of the differences that the verdicts are on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from losslab.report import TEST_FOLDER, image_spread, read_confirmation
from losslab.report.image_spread import REDRAWN, image_draws, metrics_of_draws
from losslab.report.records import TEST_PREDICTIONS
from losslab.run import read_predictions, write_predictions
from losslab.study import SettingResults, read_results

CLASSES = ["a", "b", "c", "d"]
COUNTS = {"a": 100, "b": 10, "c": 10, "d": 5}


def direct(labels: np.ndarray, predicted: np.ndarray, draws: np.ndarray) -> dict[str, list[float]]:
    """Each metric of each draw by scikit-learn, of the images themselves, repeated."""
    found: dict[str, list[float]] = {}
    for weights in draws.T:
        at = np.repeat(np.arange(len(labels)), weights.astype(int))
        precision, recall, _, _ = precision_recall_fscore_support(
            labels[at], predicted[at], labels=range(4), zero_division=0
        )
        kept = sorted({*labels[at], *predicted[at]})
        values = {"acc": accuracy_score(labels[at], predicted[at])}
        values["f1/macro"] = f1_score(labels[at], predicted[at], average="macro", labels=kept, zero_division=0)
        for metric, by_class in (("precision", precision), ("recall", recall)):
            values |= {f"{metric}/{name}": by_class[c] for c, name in enumerate(CLASSES)}
            values[f"{metric}/macro"] = by_class[kept].mean()
            values[f"{metric}/tail"] = by_class[3]
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("images", [7, 60])  # of few images, draws lack classes
def test_metrics_of_weighted_images_are_scikit_learns_of_repeated_images(images: int) -> None:
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 4, (2, images))
    draws = image_draws(images)[:, :40]
    assert (draws.sum(axis=0) == images).all()
    found = metrics_of_draws(labels, predicted, draws, CLASSES, {"tail": ["d"]})
    expected = direct(labels, predicted, draws)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


def confirmation(folder: Path) -> tuple[list[SettingResults], list[dict], np.ndarray]:
    """Three settings at two seeds, with predictions of the same 50 images: their labels."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 50)
    settings, results = [], []
    for name in ("base", "other", "gone"):
        runs = [f"runs/{name}/seed-{seed}" for seed in (0, 1)]
        settings.append(SettingResults(name, name, {}, name, [0, 1], {}, CLASSES, runs))
        results += [{"setting_hash": name, "seed": seed, "class_counts": COUNTS} for seed in (0, 1)]
        for run in runs:
            file = folder / run / TEST_PREDICTIONS
            file.parent.mkdir(parents=True)
            write_predictions(file, (torch.from_numpy(random.normal(size=(50, 4))).float(), torch.from_numpy(labels)))
    (folder / "runs/gone/seed-1" / TEST_PREDICTIONS).unlink()
    return settings, results, labels


def test_the_spread_is_of_the_mean_difference_in_the_same_draws(tmp_path: Path) -> None:
    settings, results, labels = confirmation(tmp_path)
    keys = ["test/f1/macro", "test/recall/tail", "test/ece", "test/acc"]
    spread = image_spread(tmp_path, settings, results, "base", keys)
    assert spread.keys() == {("other", key) for key in keys if key != "test/ece"}  # no counts tell it; "gone" is gone
    draws, means = image_draws(50), {}
    for setting in settings[:2]:
        logits = [np.load(tmp_path / run / TEST_PREDICTIONS)["logits"] for run in setting.runs]
        every = [metrics_of_draws(labels, each.argmax(axis=1), draws, CLASSES, {"tail": ["d"]}) for each in logits]
        means[setting.label] = {name: np.mean([e[name] for e in every], axis=0) for name in every[0]}
    for (_, key), value in spread.items():
        name = key.removeprefix("test/")
        expected = np.std(means["other"][name] - means["base"][name], ddof=1)
        assert value == pytest.approx(expected, rel=1e-4)
    assert draws.shape[1] == REDRAWN
    assert image_spread(tmp_path, settings, results, "nothing", keys) == {}


def test_each_draw_is_of_as_many_images_with_replacement() -> None:
    draws = image_draws(400)  # (N, B)
    assert (draws.sum(axis=0) == 400).all()
    assert draws.mean() == pytest.approx(1)
    assert draws.var() == pytest.approx(1 - 1 / 400, rel=0.02)  # of a multinomial count


@pytest.mark.slow
def test_the_verdicts_of_a_confirmation_have_it(tuned_study: Path) -> None:
    confirmation = read_confirmation(tuned_study / "confirm")
    assert confirmation is not None
    family = confirmation.summary.family
    assert family is not None
    assert family.images.keys() == {(verdict.setting, verdict.metric) for verdict in family.verdicts}
    text = (tuned_study / "report.md").read_text()
    of_test, of_search = text.split("## The search")
    assert "| ± images |" in of_test
    assert "± images" not in of_search
    for value in family.images.values():
        assert f"| {100 * value:.2f} |" in of_test


@pytest.mark.slow
def test_metrics_of_all_images_once_are_the_tests_own(tuned_study: Path) -> None:
    folder = tuned_study / "confirm"
    for result in read_results(folder / TEST_FOLDER):
        logits, labels = read_predictions(folder / result["run"] / TEST_PREDICTIONS)
        classes = list("0123456789")
        found = metrics_of_draws(labels, logits.argmax(axis=1), np.ones((50, 1), np.float32), classes, {})
        for name, values in found.items():
            assert values[0] == pytest.approx(result["metrics"][f"test/{name}"], abs=1e-6), name
