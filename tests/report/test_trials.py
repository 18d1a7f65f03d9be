"""The figures of a search's trials."""

from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from losslab.report.trials import parallel_coordinates


@pytest.mark.parametrize(("maximize", "best"), [(True, "0.9000"), (False, "0.1000")])
def test_the_best_trials_line_is_the_thickest_and_on_top(maximize: bool, best: str) -> None:
    space: dict[str, Any] = {"lr": FloatDistribution(0.0, 1.0)}
    values = (0.5, 0.1, 0.9, 0.3, 0.7)
    trials = [create_trial(params={"lr": value}, distributions=space, value=value) for value in values]
    traces = parallel_coordinates(trials, "val/loss", maximize).traces
    assert traces[-1]["name"].endswith(best)
    assert traces[-1]["line"]["width"] == max(trace["line"]["width"] for trace in traces)
