"""The figures show the predictions: confusions are the counts, the gallery has its images."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from losslab.report.predictions import (
    MOST_IMAGES,
    calibration,
    confusion,
    data_url,
    gallery,
    mean_confusion,
    share_images,
    shown_predictions,
)
from losslab.report.records import Predictions, image_identities, setting_predictions
from losslab.study import group_by_setting, read_results


def draw(seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    return Predictions(random.normal(size=(3, 40, 4)).astype(np.float32), np.arange(40) % 4)


def test_the_mean_over_seeds() -> None:
    given = draw(0)
    theirs = [confusion_matrix(given.labels, logits.argmax(axis=1)) for logits in given.logits]
    assert (mean_confusion(given) == np.mean(theirs, axis=0)).all()
    assert mean_confusion(given).sum() == 40


def test_errors_diagonal_and_difference_are_drawn() -> None:
    base, other = draw(0), draw(1)
    figure = confusion({"a": base, "b": other}, ["w", "x", "y", "<z>"], "a")
    errors, diagonal, difference = [trace for trace in figure.traces if trace["meta"] == {"setting": "b"}]
    matrix = mean_confusion(other)
    drawn = np.array(errors["z"], dtype=float)
    assert np.isnan(np.diag(drawn)).all()
    np.testing.assert_allclose(np.nansum(drawn), matrix.sum() - np.trace(matrix))
    assert [float(text) for text in diagonal["text"]] == np.diag(matrix).round(1).tolist()
    np.testing.assert_allclose(difference["z"], matrix - mean_confusion(base))
    assert figure.choices[0].options == ["a", "b"]
    assert errors["x"][-1] == "&lt;z&gt;"
    worst = figure.table.rows[0]
    assert float(worst[3]) == round(float(np.nanmax(mean_confusion(base) * (1 - np.eye(4)))), 1)


def test_without_a_baseline_there_is_one_panel() -> None:
    figure = confusion({"a": draw(0)}, list("wxyz"), None)
    assert len(figure.panels) == 1
    assert len(figure.traces) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_survives_its_png(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 7, 5)).astype(np.uint8)
    header, content = data_url(image).split(",")
    assert header == "data:image/png;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (read == (np.moveaxis(image, 0, -1) if channels == 3 else image[0])).all()


def test_the_gallery_has_the_images_that_it_shows() -> None:
    random = np.random.default_rng(0)
    given = Predictions(random.normal(size=(1, 300, 4)).astype(np.float32), np.arange(300) % 4)
    content = gallery({"a": given}, random.integers(0, 256, (300, 1, 4, 4)).astype(np.uint8))
    shown = content["settings"]["a"]
    assert len(shown) == MOST_IMAGES < content["total"]["a"]
    assert {str(mistake[0]) for mistake in shown} == set(content["images"])
    assert [mistake[3] for mistake in shown] == sorted((mistake[3] for mistake in shown), reverse=True)


def test_images_that_the_loss_ignores_are_in_no_figure() -> None:
    """They have the label -1; the other images keep their places in the split."""
    given = draw(0)
    kept = given.labels != 3
    marked = given._replace(labels=np.where(kept, given.labels, -1))
    others = Predictions(given.logits[:, kept], given.labels[kept])
    assert (mean_confusion(marked) == mean_confusion(others)).all()
    shown = calibration({"a": marked}, {"a": None})
    assert shown.table.rows == calibration({"a": others}, {"a": None}).table.rows
    mistakes = gallery({"a": marked}, np.zeros((40, 1, 2, 2), dtype=np.uint8))["settings"]["a"]
    assert mistakes
    assert all(kept[image] for image, *_ in mistakes)


def test_predictions_of_splits_that_differ_are_not_put_together_although_their_labels_are_equal(
    gamma_study: Path,
) -> None:
    settings = group_by_setting(read_results(gamma_study))
    alone = [setting_predictions(gamma_study, settings[0], seed) for seed in range(6)]
    given = [predictions for predictions in alone if predictions is not None]
    assert len(given) == 6
    assert all((predictions.labels == given[0].labels).all() for predictions in given)
    assert setting_predictions(gamma_study, settings[0]) is None
    assert not share_images(gamma_study, settings)
    shown = shown_predictions(gamma_study, settings)
    assert {len(predictions.logits) for predictions in shown.predictions.values()} == {1}
    assert shown.same_images
    assert "seed 0 alone" in shown.text


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ("split_seed: 3", True),
        ("split_seed: 3\n    imbalance: 0.1", True),  # a long tail changes each seed's training images only
        ("split_seed: 3\n    imbalance: 0.1\n    validation: like_training", False),
        ("split_seed: 3\n    validation: like_training", True),
    ],
)
def test_a_split_given_by_hand_puts_all_seeds_together(
    given: str, shared: bool, gamma_study: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "gamma"
    shutil.copytree(gamma_study, copy)
    for file in copy.glob("runs/*/*/config.yaml"):
        text = file.read_text().replace("    imbalance: null\n", "").replace("    validation: balanced\n", "")
        file.write_text(text.replace("split_seed: null", given))
    settings = group_by_setting(read_results(copy))
    assert share_images(copy, settings) == shared
    shown = shown_predictions(copy, settings)
    assert {len(predictions.logits) for predictions in shown.predictions.values()} == {6 if shared else 1}
    assert ("which all seeds share" in shown.text) == shared
    assert len({*image_identities(copy, settings[0]).values()}) == (1 if shared else 6)
