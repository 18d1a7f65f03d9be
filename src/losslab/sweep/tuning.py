"""Tuning: the values that are tried beyond a list whose first or last one is the best."""

from collections.abc import Iterable

EXTENSIONS = 3
"""Values tried beyond either end of the list, at most."""


def tuning_range(values: list[float]) -> tuple[float, float]:
    """The lowest and the highest value that may be tried.

    Args:
        values: three increasing numbers > 0 or more.
    """
    return _beyond(values, -EXTENSIONS), _beyond(values, EXTENSIONS)


def next_value(values: list[float], tried: Iterable[float], best: float) -> float | None:
    """The value to try next; None if the best one has a neighbour on either side, or lies at the end of the range.

    Args:
        values: the list.
        tried: all values tried so far, those included that failed.
        best: the best of them.
    """
    downwards = best <= values[0]
    if not downwards and best < values[-1]:
        return None
    outwards = [_beyond(values, -step if downwards else step) for step in range(1, EXTENSIONS + 1)]
    further = [value for value in outwards if (value < best if downwards else value > best)]
    return further[0] if further and further[0] not in set(tried) else None


def _beyond(values: list[float], steps: int) -> float:
    """The value so many steps behind the last one, or before the first one, in the ratio of the two at that end."""
    end, before = (values[-1], values[-2]) if steps > 0 else (values[0], values[1])
    return float(f"{end * (end / before) ** abs(steps):.6g}")
