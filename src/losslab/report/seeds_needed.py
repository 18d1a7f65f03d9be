"""How many seeds a difference of the observed size asks for."""

import math

from scipy import stats

from losslab.report.sign_flips import FEWEST_SEEDS

MOST = 1000


def seeds_needed(mean: float, sd: float, comparisons: int, power: float = 0.8, level: float = 0.95) -> int | None:
    """The fewest seeds that show a difference with this probability, if the observed effect is the true one.

    By Student's paired t at Bonferroni's level, which no family needs more than: a rough figure, since the observed
    effect is itself uncertain, and optimistic for the largest of many.

    Args:
        mean: of the differences.
        sd: their standard deviation over the seeds.
        comparisons: the family's size, >= 1.
        power: the probability, in (0, 1).
        level: of the family.

    Returns:
        The number, at least `FEWEST_SEEDS`; None where it is above 1,000, or no difference was observed.
    """
    if mean == 0 or math.isnan(sd):
        return None
    if sd == 0:
        return FEWEST_SEEDS
    effect, tail = abs(mean) / sd, (1 - level) / (2 * comparisons)

    def reached(n: int) -> bool:
        return bool(stats.nct.sf(stats.t.isf(tail, n - 1), n - 1, effect * math.sqrt(n)) >= power)

    low, high = FEWEST_SEEDS, MOST
    if not reached(high):
        return None
    while low < high:  # power grows with n
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return low
