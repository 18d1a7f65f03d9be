"""How far trainings that were run again are from what was kept of them: whether the numbers can be regenerated."""

from kept import Kept, key_of

from losslab.report.results import Result


def kept_difference(former: Kept | None, kept: Kept) -> str:
    """In words, for `results.py keep`: how many trainings were run again, and which metric then differs most."""
    before = {key_of(line): line for line in former.results} if former else {}
    again = [
        (before[key_of(line)]["metrics"], line["metrics"])
        for line in kept.results
        if key_of(line) in before and _clock(before[key_of(line)]) != _clock(line)
    ]
    gaps: dict[str, float] = {}
    for old, new in again:
        for metric in old.keys() & new.keys():
            gaps[metric] = max(gaps.get(metric, 0.0), abs(old[metric] - new[metric]))
    if not gaps:
        return "none of them was kept before and run again"
    furthest = max(gaps, key=lambda metric: (gaps[metric], metric))
    same = "no metric differs" if gaps[furthest] == 0 else f"{furthest} differs most, by up to {gaps[furthest]:.2g}"
    return f"{len(again)} of them were kept before and run again: {same}"


def _clock(line: Result) -> tuple[str | None, float]:
    """What no two trainings share, and one that only stayed where it was still has.

    The seconds alone would not do: two short trainings can take the same. Lines kept by former versions have no start.
    """
    return line.get("started_at"), line["seconds"]
