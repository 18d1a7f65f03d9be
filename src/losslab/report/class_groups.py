"""Head, middle and tail: the classes by how many training images they have."""

from typing import Any

GROUPS = ("head", "middle", "tail")


def class_groups(class_counts: dict[str, int]) -> dict[str, list[str]]:
    """The third of the classes with the most images, the third with the fewest, and those between.

    Args:
        class_counts: training images of each class, by its name; two classes or more.

    Returns:
        The classes of each group that is not empty; of 10 classes 3, 4 and 3. {} where the largest class has less than
        twice the images of the smallest, so that there is no tail, and where a class bears a group's name.
    """
    if not class_counts or max(class_counts.values()) < 2 * min(class_counts.values()) or {*GROUPS} & {*class_counts}:
        return {}
    ordered = sorted(class_counts, key=lambda name: -class_counts[name])
    third = max(1, len(ordered) // 3)
    parts = (ordered[:third], ordered[third:-third], ordered[-third:])
    return {group: part for group, part in zip(GROUPS, parts, strict=True) if part}


def group_keys(class_counts: dict[str, int]) -> list[str]:
    """The keys of `with_group_metrics`, without the split's prefix."""
    return [f"{metric}/{group}" for metric in ("precision", "recall") for group in class_groups(class_counts)]


def with_group_metrics(metrics: dict[str, float], class_counts: dict[str, int]) -> dict[str, float]:
    """`metrics`, and `val/precision/tail` and so on: the mean over the group's classes."""
    added: dict[str, Any] = {}
    for group, names in class_groups(class_counts).items():
        for prefix in ("val/precision", "val/recall", "test/precision", "test/recall"):
            values = [metrics[key] for name in names if (key := f"{prefix}/{name}") in metrics]
            if len(values) == len(names):
                added[f"{prefix}/{group}"] = sum(values) / len(values)
    return metrics | added
