"""Verdicts on each setting against the baseline, for every metric of the family: higher, lower, alike, not shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from losslab.metrics import better_direction
from losslab.report.statistics import (
    ALL_PATTERNS_UP_TO,
    ERROR,
    RANDOM_PATTERNS,
    clopper_pearson,
    fewest_seeds,
    is_skewed,
    max_t,
    seeds_needed,
    sign_test,
    signs_needed,
)
from losslab.study import GROUPS, SettingResults

ROUNDING = 1e-7
"""A smaller difference of two values of a metric, which is computed in float32, is rounding, and counts as zero."""
Word = Literal[
    "higher", "lower", "higher, by less than the margin", "lower, by less than the margin", "alike", "not shown"
]


class Verdict(NamedTuple):
    """One comparison of the family.

    Args:
        setting, metric: the setting's label and the metric's key.
        mean, sd: of the differences over the seeds, setting minus baseline; sd is NaN for one seed.
        low, high: the simultaneous interval for the mean; infinite below 6 seeds.
        p: p-value adjusted for the family, the larger one of max-|t| and sign test; 1 below 6 seeds.
        seeds: number of paired seeds.
        needed: number of seeds that would show an effect as large as the observed one; None above 1,000.
        comparisons: size of the family.
        median_low, median_high: the sign test's simultaneous interval for the median; infinite if not `decidable`.
        above, below: numbers of seeds with a difference above and below zero.
        collapsed, baseline_collapsed: numbers of seeds at which a class has recall 0, in the setting and in the
            baseline; None if the results hold no class's recall.
        margin: the declared difference that matters, in the metric's unit (0.01: one point); None without one.
        skewed: whether the differences are skewed, `statistics.is_skewed`.
    """

    setting: str
    metric: str
    mean: float
    sd: float
    low: float
    high: float
    p: float
    seeds: int
    needed: int | None
    comparisons: int = 1
    median_low: float = -math.inf
    median_high: float = math.inf
    above: int = 0
    below: int = 0
    collapsed: int | None = None
    baseline_collapsed: int | None = None
    margin: float | None = None
    skewed: bool = False

    @property
    def word(self) -> Word:
        """The verdict. Higher and lower: the intervals for mean and median lie above zero, or below.

        By less than the margin: they also lie within it. Alike: they lie within it, and no difference is shown. Neither
        is said of skewed differences, nor if a run collapsed. All words follow from intervals that hold together.
        """
        low, high = min(self.low, self.median_low), max(self.high, self.median_high)
        within = self.margin is not None and -self.margin < low and high < self.margin
        small = within and not self.skewed and self.collapsed == self.baseline_collapsed == 0
        if low > 0:
            return "higher, by less than the margin" if small else "higher"
        if high < 0:
            return "lower, by less than the margin" if small else "lower"
        return "alike" if small else "not shown"

    @property
    def direction(self) -> Literal["higher", "lower", ""]:
        """Higher or lower, whatever the margin; "" if no difference is shown."""
        return "higher" if self.word.startswith("higher") else "lower" if self.word.startswith("lower") else ""

    @property
    def better(self) -> bool:
        """Whether the setting is shown to be better than the baseline: lower for a loss or ECE, else higher."""
        return self.direction == ("higher" if better_direction(self.metric) == "maximize" else "lower")

    @property
    def better_seeds(self) -> int:
        """The number of seeds at which the setting is better than the baseline."""
        return self.above if better_direction(self.metric) == "maximize" else self.below

    @property
    def better_interval(self) -> tuple[float, float]:
        """The exact 95 % interval for the probability that a seed's difference is one for the better."""
        return clopper_pearson(self.better_seeds, self.seeds)

    @property
    def collapses(self) -> str:
        """At how many seeds the setting collapsed, and for none what that excludes; "" if it is not known."""
        if self.collapsed is None:
            return ""
        excluded = f", which excludes only rates above {100 * (1 - ERROR ** (1 / self.seeds)):.0f} %"
        return f"collapsed at {self.collapsed} of {self.seeds} seeds{'' if self.collapsed else excluded}"

    @property
    def decidable(self) -> bool:
        """Whether there are enough seeds for a verdict in a family of this size."""
        return self.seeds >= fewest_seeds(self.comparisons)

    @property
    def hint(self) -> str:
        """The number of seeds needed, if no difference is shown; else ""."""
        if self.word != "not shown" or self.mean == 0:
            return ""
        if math.isnan(self.sd):
            return f"needs {fewest_seeds(self.comparisons)} seeds or more"
        return f"needs {self.needed or '> 1000'} seeds"


@dataclass(frozen=True)
class Family:
    """The verdicts on all declared comparisons; they hold simultaneously.

    `images` holds how far a mean difference varies with the test images, by setting and metric; {} if it is not known.
    """

    baseline: str
    metrics: list[str]
    verdicts: list[Verdict]
    seeds: int
    images: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of comparisons."""
        return len(self.verdicts)

    @property
    def shown(self) -> list[Verdict]:
        """The verdicts that are higher or lower, by less than the margin or more."""
        return [verdict for verdict in self.verdicts if verdict.direction]

    def of(self, setting: str, metric: str) -> Verdict | None:
        """The verdict on a setting's metric; None if the family does not hold it."""
        return next((v for v in self.verdicts if (v.setting, v.metric) == (setting, metric)), None)

    @property
    def method(self) -> str:
        """The method of the verdicts, in a sentence."""
        n, m = self.seeds, self.size
        if m == 0:
            return f"There is nothing yet to compare with {self.baseline}."
        if n < (fewest := fewest_seeds(m)):
            comparisons = f"{m} comparison{'s' if m > 1 else ''}"
            return f"No verdict on {comparisons} below {fewest} paired seeds; there {'is' if n == 1 else 'are'} {n}."
        patterns = f"all {2**n:,}" if n <= ALL_PATTERNS_UP_TO else f"{RANDOM_PATTERNS:,} random"
        return (
            f"Paired over {n} seeds; a difference is shown if its interval excludes zero ({patterns} sign flips, "
            f"largest |t| over the declared family of {m} comparisons) and at least {signs_needed(n, m)} of the {n} "
            f"seeds have its sign (a sign test at {ERROR:g}/{m}); intervals and verdicts hold together at 95 %."
        )


def compare(
    settings: Sequence[SettingResults],
    baseline: SettingResults,
    metrics: Sequence[str],
    margins: Mapping[str, float] | None = None,
) -> Family:
    """Compare every setting with the baseline in every metric.

    Args:
        settings: settings trained with the baseline's seeds; the baseline itself is skipped.
        baseline: the setting to compare with.
        metrics: keys that all settings have.
        margins: the difference that matters, by metric; a metric may have none.
    """
    pairs = [(setting, baseline) for setting in settings if setting is not baseline]
    return compare_pairs(pairs, baseline.label, metrics, margins)


def compare_pairs(
    pairs: Sequence[tuple[SettingResults, SettingResults]],
    baseline: str,
    metrics: Sequence[str],
    margins: Mapping[str, float] | None = None,
) -> Family:
    """Compare the first setting of each pair with the second in every metric, as one family.

    Args:
        pairs: settings with one value for each of the same seeds, in the same order.
        baseline: name of the second settings.
        metrics: keys that all settings have.
        margins: as for `compare`.
    """
    columns = [(setting, other, key) for setting, other in pairs for key in metrics]
    if not columns:
        return Family(baseline, list(metrics), [], 0)
    seeds = len(columns[0][0].seeds)
    differences = np.array([np.subtract(setting.values[key], other.values[key]) for setting, other, key in columns]).T
    differences[np.abs(differences) < ROUNDING] = 0  # (n, m): seeds, comparisons
    m, skewed, signs = len(columns), is_skewed(differences), sign_test(differences)
    if seeds >= fewest_seeds(1):
        means, lows, highs, p = max_t(differences)
    else:
        means, lows, highs, p = differences.mean(axis=0), np.full(m, -np.inf), np.full(m, np.inf), np.ones(m)
    sds = differences.std(axis=0, ddof=1) if seeds > 1 else np.full(m, np.nan)
    numbers = np.column_stack([means, sds, lows, highs, np.maximum(p, signs.p), signs.low, signs.high]).tolist()
    verdicts = [
        Verdict(
            setting.label, key, mean, sd, low, high, p, seeds, seeds_needed(mean, sd, m), m, median_low, median_high,
            int((column > 0).sum()), int((column < 0).sum()), _collapsed(setting, key), _collapsed(other, key),
            (margins or {}).get(key), bool(skew),
        )
        for (setting, other, key), (mean, sd, low, high, p, median_low, median_high), column, skew
        in zip(columns, numbers, differences.T, skewed, strict=True)
    ]  # fmt: skip
    return Family(baseline, list(metrics), verdicts, seeds)


def _collapsed(setting: SettingResults, key: str) -> int | None:
    """Return the number of seeds at which a class has recall 0 in the metric's split; None if no class's is known."""
    prefix = f"{key.partition('/')[0]}/recall/"
    # Means over classes are 0 only if the recalls of their classes are. Kept results hold a test split's classes alone.
    recalls = {name: values for name, values in setting.values.items() if name.startswith(prefix)}  # (n,) each
    known = recalls.keys() - {prefix + name for name in ("macro", *GROUPS)}
    return int((np.min([*recalls.values()], axis=0) == 0).sum()) if known else None
