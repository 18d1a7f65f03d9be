import numpy as np
import pytest
from scipy.special import softmax

from losslab.metrics import find_mistakes


def test_mistakes_are_those_of_the_seeds_by_falling_confidence() -> None:
    logits = np.zeros((2, 3, 3), dtype=np.float32)
    logits[0] = [[3, 0, 0], [0, 5, 0], [0, 2, 0]]
    logits[1] = [[0, 4, 0], [0, 5, 0], [0, 1, 0]]
    found = find_mistakes(logits, np.array([0, 1, 2]))
    assert [(m.image, m.true, m.predicted, m.seeds) for m in found] == [(0, 0, 1, 1), (2, 2, 1, 2)]
    expected = softmax([0, 4, 0])[1], (softmax([0, 2, 0])[1] + softmax([0, 1, 0])[1]) / 2
    assert [m.confidence for m in found] == pytest.approx(expected)


def test_an_image_without_a_label_is_no_mistake() -> None:
    logits = np.eye(3, dtype=np.float32)[None]
    assert [m.image for m in find_mistakes(logits, np.array([1, -1, 2]))] == [0]
