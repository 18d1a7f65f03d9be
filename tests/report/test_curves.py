"""The curves are the losses' own."""

import numpy as np
import pytest
import torch

from losslab.losses import CrossEntropyLoss, FocalLoss, focal_gradient_ratio
from losslab.report.curves import P_T, curve, loss_curves


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_focal_loss_and_gradient_are_the_formulas(gamma: float) -> None:
    values, gradients = curve(FocalLoss(gamma))
    p = P_T.double()
    np.testing.assert_allclose(values, -((1 - p) ** gamma) * p.log(), rtol=1e-6)
    np.testing.assert_allclose(gradients, (1 - p) * focal_gradient_ratio(p, gamma), rtol=1e-6)


def test_a_foreign_loss_can_be_drawn() -> None:
    assert curve(torch.nn.CrossEntropyLoss())[0] == pytest.approx(curve(CrossEntropyLoss())[0])


def test_the_slider_has_a_curve_for_each_value_and_the_first_always() -> None:
    figure = loss_curves("focal", ["0", "2", "5"], [FocalLoss(g) for g in (0, 2, 5)], "γ")
    always = [trace for trace in figure.traces if "meta" not in trace]
    assert [trace["y"] for trace in always] == [*map(list, curve(FocalLoss(0)))]
    assert [t["meta"]["γ"] for t in figure.traces if "meta" in t] == ["0", "0", "2", "2", "5", "5"]
    assert figure.choices[0].slider
    assert figure.choices[0].start == 1


def test_without_a_slider_all_curves_are_there_and_in_the_table() -> None:
    figure = loss_curves("focal", ["gamma = 0", "gamma = 2"], [FocalLoss(0), FocalLoss(2)])
    assert len(figure.traces) == 4
    half = next(row for row in figure.table.rows if row[0] == "0.50")
    assert [float(cell) for cell in half[1:]] == pytest.approx([0.6931, 0.5, 0.1733, 0.2983], abs=1e-4)
