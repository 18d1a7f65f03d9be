"""The gallery holds the mistakes, all of them and nothing else."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from losslab.report.misclassified import MOST, data_url, gallery, mistakes
from losslab.report.run_records import Predictions


def test_mistakes_are_those_of_the_seeds_by_falling_confidence() -> None:
    logits = np.zeros((2, 3, 3), dtype=np.float32)
    logits[0] = [[3, 0, 0], [0, 5, 0], [0, 2, 0]]
    logits[1] = [[0, 4, 0], [0, 5, 0], [0, 1, 0]]
    found = mistakes(Predictions(logits, np.array([0, 1, 2])))
    assert [(m.image, m.true, m.predicted, m.seeds) for m in found] == [(0, 0, 1, 1), (2, 2, 1, 2)]
    expected = softmax([0, 4, 0])[1], (softmax([0, 2, 0])[1] + softmax([0, 1, 0])[1]) / 2
    assert [m.confidence for m in found] == pytest.approx(expected)


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
    content = gallery(["a"], [given], random.integers(0, 256, (300, 1, 4, 4)).astype(np.uint8))
    shown = content["settings"]["a"]
    assert len(shown) == MOST < content["total"]["a"]
    assert {str(mistake[0]) for mistake in shown} == set(content["images"])
    assert [mistake[3] for mistake in shown] == sorted((mistake[3] for mistake in shown), reverse=True)
