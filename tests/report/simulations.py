"""Simulated studies: how often verdicts are wrong, how often right; and the tables of docs/statistics.md.

    make results-statistics
    python tests/report/simulations.py docs/statistics.md

A simulated study is an array of differences (n, m): n seeds, m comparisons with one baseline, so correlated by 0.5.
Many are computed together, as (S, n, m); `test_statistics.py` shows that they equal `max_t` and `compare`.
"""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from losslab.report.statistics import (
    ALL_PATTERNS_UP_TO,
    ERROR,
    fewest_seeds,
    is_skewed,
    seeds_needed,
    sign_patterns,
    signs_needed,
)

CHUNK = 2_000_000
"""Numbers in memory at a time."""
Random = np.random.Generator


class Words(NamedTuple):
    """What the conditions say of S studies of m comparisons, each (S, m) bool.

    Args:
        interval: max-|t|'s interval excludes zero.
        signs: the sign test is significant.
        shown: both, in the same direction: higher or lower.
        within: both intervals lie within the margin, and the differences are not skewed: alike, or by less than it.
        within_unguarded: the interval for the mean lies within the margin.
        low, high: max-|t|'s interval, (S, m) float.
    """

    interval: np.ndarray
    signs: np.ndarray
    shown: np.ndarray
    within: np.ndarray
    within_unguarded: np.ndarray
    low: np.ndarray
    high: np.ndarray


def intervals(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`max_t`'s intervals of S studies, (S, m) each, for differences (S, n, m) without constant columns or ties.

    |t| grows with |sum of the flipped differences| over their root sum of squares, so t is computed of the largest.
    """
    studies, n, m = differences.shape
    signs = sign_patterns(n)
    rank = int(ERROR * len(signs) + 1e-9)
    if n <= ALL_PATTERNS_UP_TO:  # a pattern and its opposite have the same |t|
        signs, rank = signs[: len(signs) // 2], rank // 2
    mean, critical = differences.mean(axis=1), np.zeros(studies)
    for matrix in (differences, differences - mean[:, None]):
        unit = matrix / np.sqrt((matrix**2).sum(axis=1, keepdims=True))
        for start in range(0, studies, step := max(1, CHUNK // (len(signs) * m))):
            part = slice(start, start + step)
            largest = np.abs(signs @ unit[part]).max(axis=2)  # (step, B)
            cut = -np.partition(-largest, rank, axis=1)[:, rank]
            with np.errstate(divide="ignore"):
                t = cut * np.sqrt((n - 1) / np.maximum(n - cut**2, 0))
            critical[part] = np.maximum(critical[part], t)
    half = critical[:, None] * differences.std(axis=1, ddof=1) / math.sqrt(n)
    touching = np.abs(mean) <= half * (1 + 1e-9)  # an interval that ends at zero includes it
    half = np.where(touching, np.maximum(half, np.abs(mean)), half)
    return mean - half, mean + half


def words(differences: np.ndarray, margin: float = math.inf) -> Words:
    """The verdicts on S studies (S, n, m), of which no run collapsed."""
    studies, n, m = differences.shape
    low, high = intervals(differences)
    count, ordered = signs_needed(n, m), np.sort(differences, axis=1)
    median_low, median_high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
    if count <= n:
        median_low, median_high = ordered[:, n - count], ordered[:, count - 1]
    interval, signs = (low > 0) | (high < 0), (median_low > 0) | (median_high < 0)
    shown = ((low > 0) & (median_low > 0)) | ((high < 0) & (median_high < 0))
    skewed = is_skewed(differences.transpose(1, 0, 2).reshape(n, -1)).reshape(studies, m)
    unguarded = (-margin < low) & (high < margin)
    within = unguarded & (-margin < median_low) & (median_high < margin) & ~skewed
    return Words(interval, signs, shown, within, unguarded, low, high)


def normals(random: Random, studies: int, seeds: int, comparisons: int) -> np.ndarray:
    """Normal differences of sd 1 with one baseline, (S, n, m)."""
    common = random.normal(size=(studies, seeds, 1))
    return np.sqrt(0.5) * (common + random.normal(size=(studies, seeds, comparisons)))


def _exponential(z: np.ndarray) -> np.ndarray:
    return -stats.norm.logsf(z)  # mean 1, sd 1, median ln 2


def _collapse(z: np.ndarray) -> np.ndarray:
    """Normal numbers of mean 0.14 and sd 1, of which 10 % fall by 10 sd: median 0."""
    share, rank = 0.1, stats.norm.cdf(z)
    kept = stats.norm.ppf(np.clip((rank - share) / (1 - share), 1e-12, 1))
    return stats.norm.ppf(0.5 / (1 - share)) + np.where(rank < share, z - 10, kept)


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normal": lambda z: z,
    "t with 2 degrees of freedom": lambda z: stats.t.ppf(stats.norm.cdf(z), 2),
    "exponential": lambda z: _exponential(z) - math.log(2),
    "10 % collapse": _collapse,
}
"""Differences of median 0, so P(better) = 1/2, as functions of correlated normals."""

EQUAL_MEANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exponential": lambda z: _exponential(z) - 1,
    "10 % collapse": lambda z: _collapse(z) - stats.norm.ppf(0.5 / 0.9) + 1,
}
"""Differences of mean 0 whose median is not 0."""

CENTRED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normal": lambda z: z,
    "t with 3 degrees of freedom": lambda z: stats.t.ppf(stats.norm.cdf(z), 3) / math.sqrt(3),
    "gamma with shape 4": lambda z: (stats.gamma.ppf(stats.norm.cdf(z), 4) - 4) / 2,
    "exponential": lambda z: _exponential(z) - 1,
}
"""Differences of mean 0 and sd 1."""


class Error(NamedTuple):
    """Shares of studies with at least one difference by the interval alone, by the signs alone, and by both."""

    interval: float
    signs: float
    both: float


def family_error(shape: Callable[[np.ndarray], np.ndarray], seeds: int, comparisons: int, studies: int) -> Error:
    """How often studies of that shape show any difference."""
    said = words(shape(normals(np.random.default_rng(0), studies, seeds, comparisons)))
    return Error(*(float(each.any(axis=1).mean()) for each in (said.interval, said.signs, said.shown)))


def coverage(shape: Callable[[np.ndarray], np.ndarray], seeds: int, comparisons: int, studies: int) -> float:
    """The share of studies whose intervals hold all true means, one in two of which is 5 sd from zero."""
    true = 5.0 * (np.arange(comparisons) % 2)
    low, high = intervals(true + shape(normals(np.random.default_rng(1), studies, seeds, comparisons)))
    return float(((low <= true) & (true <= high)).all(axis=1).mean())


def power(effect: float, seeds: int, comparisons: int, studies: int) -> float:
    """The share of normal differences that are shown when all have a mean of `effect` sd."""
    if seeds < fewest_seeds(comparisons):
        return 0.0
    return float(words(effect + normals(np.random.default_rng(2), studies, seeds, comparisons)).shown.mean())


class Margin(NamedTuple):
    """Said to be within the margin: shares of studies (wrong) and of comparisons (right).

    Args:
        wrong: studies with a wrong word, if all true differences lie just beyond the margin.
        wrong_each: the same of single comparisons.
        unguarded: studies with a wrong word if max-|t|'s interval alone decided.
        right: comparisons whose true difference is zero.
    """

    wrong: float
    wrong_each: float
    unguarded: float
    right: float


def margin_words(
    shape: Callable[[np.ndarray], np.ndarray], seeds: int, comparisons: int, studies: int, margin: float = 2.5
) -> Margin:
    """How often differences of sd 1 are alike, or differ by less than the margin."""
    errors = shape(normals(np.random.default_rng(3), studies, seeds, comparisons))
    wrong, right = words(errors + margin, margin), words(errors, margin)
    return Margin(
        float(wrong.within.any(axis=1).mean()), float(wrong.within.mean()),
        float(wrong.within_unguarded.any(axis=1).mean()), float(right.within.mean()),
    )  # fmt: skip


CURVATURE = 1.0
"""A rate twice the best one costs one sd of a run; a rate three times the best one costs 2.5."""


def former_way(random: Random, studies: int, comparisons: int, noise: float) -> np.ndarray:
    """Differences (S, 10, m) of arms that are the same, by the protocol that chose one rate for all seeds.

    Each arm takes the best of a list of factor 3 on the mean of 3 seeds; 10 fresh seeds are trained at that rate. The
    metric falls with the square of log2(rate / best rate), the same for all arms; the list lies at random beside it.

    Args:
        random: the generator.
        studies: S.
        comparisons: m.
        noise: sd of a run's validation metric, in those of its test metric, which is 1.
    """
    start = random.uniform(-0.5, 0.5, size=(studies, 1, 1))
    curve = -CURVATURE * ((start + np.arange(-2, 3)) * math.log2(3)) ** 2  # (S, 1, 5)
    validation = curve + noise / math.sqrt(3) * random.normal(size=(studies, comparisons + 1, 5))
    chosen = np.take_along_axis(curve[:, 0], validation.argmax(axis=2), axis=1)  # (S, m + 1)
    test = chosen[:, None] + random.normal(size=(studies, 10, comparisons + 1))
    return test[..., 1:] - test[..., :1]


def new_way(
    random: Random, studies: int, comparisons: int, noise: float, effect: float = 0, seeds: int = 12
) -> np.ndarray:
    """Differences (S, n, m) of the same arms if each seed chooses on its own validation images.

    The list is three rates of factor 2, extended while the best lies at an end. All arms but the baseline are better
    by `effect` sd of a run.
    """
    rates, middle = 13, 6
    start = random.uniform(-0.5, 0.5, size=(studies, 1))
    curve = -CURVATURE * (start + np.arange(rates) - middle) ** 2  # (S, 13)
    runs = (studies, seeds, comparisons + 1)
    validation = curve[:, None, None] + noise * random.normal(size=(*runs, rates))
    first, last = np.full(runs, middle - 1), np.full(runs, middle + 1)
    while True:
        listed = (np.arange(rates) >= first[..., None]) & (np.arange(rates) <= last[..., None])
        best = np.where(listed, validation, -np.inf).argmax(axis=3)  # (S, n, m + 1)
        down, up = (best == first) & (first > 0), (best == last) & (last < rates - 1)
        if not (down | up).any():
            break
        first, last = first - down, last + up
    chosen = np.take_along_axis(curve, best.reshape(studies, -1), axis=1).reshape(runs)
    test = chosen + random.normal(size=runs)
    return effect + test[..., 1:] - test[..., :1]


class Tuning(NamedTuple):
    """Shares of studies with a difference between arms that are the same, and the share of real effects found.

    Args:
        former: one rate for all seeds, 10 fresh seeds, the interval alone.
        former_both: the same with the sign test.
        new: each seed tunes itself, 12 seeds, both conditions.
        found: shown comparisons, by the new way, of arms that are better by 8 sd of a run.
    """

    former: float
    former_both: float
    new: float
    found: float


def tuning_control(noise: float, comparisons: int, studies: int) -> Tuning:
    """What choosing the learning rate from noisy validation images does to either protocol."""
    random = np.random.default_rng(4)
    former = words(former_way(random, studies, comparisons, noise))
    new = words(new_way(random, studies, comparisons, noise))
    found = words(new_way(random, max(studies // 4, 1), comparisons, noise, effect=8))
    return Tuning(
        *(float(each.any(axis=1).mean()) for each in (former.interval, former.shown, new.shown)),
        float(found.shown.mean()),
    )


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(columns) - 1), *lines[1:]])


def _share(number: float) -> str:
    return f"{number:.3f}".removeprefix("0") if number < 1 else "1.000"


SEEDS, SIZES = (6, 10, 12, 20), (1, 10, 80)


def _studies(seeds: int, comparisons: int) -> int:
    """How many studies to simulate: fewer if one takes long."""
    return 500 if seeds * comparisons > 1000 else 2000


def error_table(shapes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> str:
    """Interval alone / signs alone / both, for each shape, number of seeds and size of the family."""
    sizes = [(n, m) for n in SEEDS for m in SIZES]
    rows = []
    for n, m in sizes:
        errors = [family_error(shape, n, m, _studies(n, m)) for shape in shapes.values()]
        rows.append([f"{n} seeds, {m}", *(" / ".join(map(_share, error)) for error in errors)])
    return _table(["seeds and comparisons", *shapes], rows)


def coverage_table() -> str:
    """Coverage of max-|t|'s simultaneous intervals."""
    rows = [
        [f"{n} seeds, {m}", *(_share(coverage(shape, n, m, _studies(n, m))) for shape in CENTRED.values())]
        for n in SEEDS
        for m in SIZES
    ]
    return _table(["seeds and comparisons", *CENTRED], rows)


def power_table() -> str:
    """Power for normal differences, by effect and size of the family."""
    effects = (1.0, 1.5, 2.0, 3.0)
    rows = []
    for n in (6, 8, 9, 10, 12, 13, 14, 16, 18, 20):
        sizes = [(m, effect) for m in SIZES for effect in effects]
        cells = [
            f"{power(effect, n, m, 400 if m == 80 else 1000):.2f}" if n >= fewest_seeds(m) else "–"
            for m, effect in sizes
        ]
        rows.append([str(n), *cells])
    return _table(["seeds", *(f"{m}: {e:g} sd" for m in SIZES for e in effects)], rows)


def seeds_table() -> str:
    """`seeds_needed` with the power that so many seeds have in a simulation."""
    rows = []
    for effect in (0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0):
        cells = []
        for m in SIZES:
            n = seeds_needed(effect, 1.0, m)
            assert n is not None
            cells.append(f"{n} ({power(effect, n, m, 200 if m == 80 else 1000):.2f})")
        rows.append([f"{effect:g} sd", *cells])
    return _table(["difference", *(f"{m} comparison{'s' * (m > 1)}" for m in SIZES)], rows)


def margin_table() -> str:
    """Wrong and right words within a margin of 2.5 sd."""
    rows = []
    for name, shape in CENTRED.items():
        for n, m in [(6, 1), (10, 1), (12, 1), (10, 10), (12, 10), (20, 10), (12, 80)]:
            said = margin_words(shape, n, m, _studies(n, m))
            rows.append([name, f"{n} seeds, {m}", *map(_share, said)])
    return _table(["differences", "seeds and comparisons", "wrong", "each", "interval alone", "right"], rows)


def tuning_table() -> str:
    """The control of identical arms, and a known effect."""
    rows = []
    for noise in (0.1, 0.5, 1.0, 2.0, 4.0):
        for m in (1, 16):
            said = tuning_control(noise, m, 1000 if m == 1 else 400)
            rows.append([f"{noise:g}", str(m), *map(_share, said)])
    columns = ["validation noise", "comparisons", "former", "former, both conditions", "new", "effect found"]
    return _table(columns, rows)


TABLES: dict[str, Callable[[], str]] = {
    "error": lambda: error_table(SHAPES),
    "means": lambda: error_table(EQUAL_MEANS),
    "coverage": coverage_table,
    "power": power_table,
    "seeds": seeds_table,
    "margin": margin_table,
    "tuning": tuning_table,
}


def write_tables(page: Path) -> None:
    """Write each table between its markers, `<!-- error -->` and `<!-- /error -->`."""
    between = {name: re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL) for name in TABLES}
    missing = [name for name, markers in between.items() if not markers.search(page.read_text())]
    assert not missing, f"{page} has no markers <!-- {missing[0]} --> and <!-- /{missing[0]} -->"
    tables = {name: table() for name, table in TABLES.items()}
    text = page.read_text()  # it may have been edited meanwhile
    for name, table in tables.items():
        text = between[name].sub(rf"\g<1>{table}\n\g<2>", text)
    page.write_text(text)


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
