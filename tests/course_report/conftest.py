"""How a false claim is refuted: by a counter-example that is printed. `pytest -s tests/course_report` shows them."""

from collections.abc import Callable

import pytest

CounterExample = Callable[..., None]


@pytest.fixture
def counter_example() -> CounterExample:
    """Print what a claim says at a point and what is true there, and assert that they differ by more than a gap."""

    def show(claim: str, at: str, says: float, truth: float, gap: float = 0.05) -> None:
        says, truth = float(says), float(truth)
        print(f"\nFalse, {claim}\n    at {at}: it says {says:.4g}, the truth is {truth:.4g}")
        assert abs(says - truth) > gap, f"no counter-example: {says} and {truth} differ by no more than {gap}"

    return show
