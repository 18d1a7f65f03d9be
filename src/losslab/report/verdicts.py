"""Verdicts on each setting against the baseline, for every metric of the family: higher, lower, or not shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from losslab.metrics import better_direction
from losslab.report.statistics import ALL_PATTERNS_UP_TO, FEWEST_SEEDS, RANDOM_PATTERNS, max_t, seeds_needed
from losslab.study import SettingResults


class Verdict(NamedTuple):
    """One comparison of the family.

    Args:
        setting, metric: the setting's label and the metric's key.
        mean, sd: of the differences over the seeds, setting minus baseline; sd is NaN for one seed.
        low, high: the simultaneous interval; infinite below `FEWEST_SEEDS` seeds.
        p: p-value adjusted for the family; 1 below `FEWEST_SEEDS` seeds.
        seeds: number of paired seeds.
        needed: number of seeds that would show an effect as large as the observed one; None above 1,000.
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

    @property
    def word(self) -> Literal["higher", "lower", "not shown"]:
        """The verdict: whether the interval lies above zero, below zero, or includes it."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "not shown"

    @property
    def better(self) -> bool:
        """Whether the setting is shown to be better than the baseline: lower for a loss or ECE, else higher."""
        return self.word == ("higher" if better_direction(self.metric) == "maximize" else "lower")

    @property
    def decidable(self) -> bool:
        """Whether there are enough seeds for any verdict."""
        return self.seeds >= FEWEST_SEEDS

    @property
    def hint(self) -> str:
        """The number of seeds needed, if no difference is shown; else ""."""
        if self.word != "not shown" or self.mean == 0:
            return ""
        if math.isnan(self.sd):
            return f"needs {FEWEST_SEEDS} seeds or more"
        return f"needs {self.needed or '> 1000'} seeds"


@dataclass(frozen=True)
class Family:
    """The verdicts on all declared comparisons; they hold simultaneously."""

    baseline: str
    metrics: list[str]
    verdicts: list[Verdict]
    seeds: int

    @property
    def size(self) -> int:
        """Number of comparisons."""
        return len(self.verdicts)

    @property
    def shown(self) -> list[Verdict]:
        """The verdicts that are higher or lower."""
        return [verdict for verdict in self.verdicts if verdict.word != "not shown"]

    def of(self, setting: str, metric: str) -> Verdict | None:
        """The verdict on a setting's metric; None if the family does not hold it."""
        return next((v for v in self.verdicts if (v.setting, v.metric) == (setting, metric)), None)

    @property
    def method(self) -> str:
        """The method of the verdicts, in a sentence."""
        if self.seeds < FEWEST_SEEDS:
            are = "is" if self.seeds == 1 else "are"
            return f"No verdict below {FEWEST_SEEDS} paired seeds; there {are} {self.seeds}."
        whole = self.seeds <= ALL_PATTERNS_UP_TO
        patterns = f"all {2**self.seeds:,}" if whole else f"{RANDOM_PATTERNS:,} random"
        return (
            f"Paired over {self.seeds} seeds; {patterns} sign flips, largest |t| over the declared family of "
            f"{self.size} comparisons; intervals and verdicts hold together at 95 %."
        )


def compare(settings: Sequence[SettingResults], baseline: SettingResults, metrics: Sequence[str]) -> Family:
    """Compare every setting with the baseline in every metric.

    Args:
        settings: settings trained with the baseline's seeds; the baseline itself is skipped.
        baseline: the setting to compare with.
        metrics: keys that all settings have.
    """
    pairs = [(setting, baseline) for setting in settings if setting is not baseline]
    return compare_pairs(pairs, baseline.label, metrics, len(baseline.seeds))


def compare_pairs(
    pairs: Sequence[tuple[SettingResults, SettingResults]], baseline: str, metrics: Sequence[str], seeds: int
) -> Family:
    """Compare the first setting of each pair with the second in every metric, as one family.

    Args:
        pairs: settings with one value for each of the same seeds, in the same order.
        baseline: name of the second settings.
        metrics: keys that all settings have.
        seeds: number of seeds.
    """
    columns = [(setting, other, key) for setting, other in pairs for key in metrics]
    if not columns:
        return Family(baseline, list(metrics), [], seeds)
    differences = np.array([np.subtract(setting.values[key], other.values[key]) for setting, other, key in columns]).T
    # (n, m): seeds, comparisons
    if seeds >= FEWEST_SEEDS:
        tested = np.column_stack(max_t(differences)).tolist()  # (m, 4)
    else:
        tested = [(mean, -math.inf, math.inf, 1.0) for mean in differences.mean(axis=0).tolist()]
    sds = differences.std(axis=0, ddof=1).tolist() if seeds > 1 else [math.nan] * len(columns)
    verdicts = [
        Verdict(setting.label, key, mean, sd, low, high, p, seeds, seeds_needed(mean, sd, len(columns)))
        for (setting, _, key), (mean, low, high, p), sd in zip(columns, tested, sds, strict=True)
    ]
    return Family(baseline, list(metrics), verdicts, seeds)
