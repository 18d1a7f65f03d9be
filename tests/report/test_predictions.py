"""The figures show the predictions: confusions are the counts, the gallery has its images."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from losslab.report.predictions import MOST_IMAGES, calibration, confusion, data_url, gallery, mean_confusion
from losslab.report.records import Predictions


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
