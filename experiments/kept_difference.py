"""How far trainings that were run again are from what was kept of them: whether the numbers can be regenerated."""

from kept import Kept, key_of

from losslab.study import Result


def kept_difference(former: Kept | None, kept: Kept) -> str:
    """In words, for `results.py keep`: how many trainings were run again, and which metric then differs most."""
    before = {key_of(line): line for line in former.results} if former else {}
    again = [
        (before[key_of(line)]["metrics"], line["metrics"])
        for line in kept.results
        if key_of(line) in before and _is_another(before[key_of(line)], line)
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


def _is_another(former: Result, line: Result) -> bool:
    """Whether two results are of two trainings, and not of one that only stayed where it was."""
    # Two short trainings can take the same milliseconds; lines that former versions kept have nothing better.
    mark = "started_at" if "started_at" in former and "started_at" in line else "seconds"
    return former[mark] != line[mark]
