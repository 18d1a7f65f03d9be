"""A kept study as its summaries: the search, and each confirmation, with what was tuned told apart from the label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import SEARCH, Kept, read_kept

from losslab.report import Confirmation, Summary, confirmation_of, summarise
from losslab.study import Result, Setting, SettingResults, StudyFile, class_groups, short_names


@dataclass
class KeptStudy:
    """What a kept file says.

    Args:
        kept: the file.
        search: the sweep's summary, of the validation split.
        confirmations: by their name; those of the test split.
        tuned: by a setting's hash, the values of what was tuned, by its short name; {} where nothing was.
        untuned: by a setting's hash, its label without them.
    """

    kept: Kept
    search: Summary
    confirmations: dict[str, Confirmation]
    tuned: dict[str, dict[str, Any]]
    untuned: dict[str, str]

    @property
    def newest(self) -> Confirmation | None:
        """The last confirmation, if there is one."""
        return next(reversed(self.confirmations.values()), None)

    def results_of(self, stage: str, setting: SettingResults) -> list[Result]:
        """The kept results of a setting of a confirmation."""
        return [r for r in self.kept.of_stage(stage) if r["setting_hash"] == setting.setting_hash]

    @property
    def has_tail(self) -> bool:
        """Whether the training images of some classes are rare."""
        return any(class_groups(result.get("class_counts", {})) for result in self.kept.results)


def read_kept_study(file: Path) -> KeptStudy | None:
    """The study in a kept file; None where there is no file."""
    kept = read_kept(file)
    if kept is None:
        return None
    study = StudyFile.from_declared(kept.header["declared"])
    searched = kept.of_stage(SEARCH)
    labels = _untuned(searched, study)
    tuned = {
        result["setting_hash"]: {
            name: result["setting"]["values"][path] for path, name in short_names(study.tune).items()
        }
        for result in searched
    }
    confirmations = {}
    for stage in kept.stages:
        told = kept.header["confirmations"][stage]
        results = [
            r | {"label": labels.get(r["setting_hash"], r["label"]), "metrics": r["metrics"] | by_size(r)}
            for r in kept.of_stage(stage)
        ]
        if results:
            whole = len(results) == told["settings"] * len(told["declared"]["seeds"])
            name = f"{kept.header['name']}/{stage}"
            confirmations[stage] = confirmation_of(name, results, StudyFile.from_declared(told["declared"]), whole)
    return KeptStudy(kept, summarise(kept.header["name"], searched, study), confirmations, tuned, labels)


def by_size(result: Result) -> dict[str, float]:
    """Precision and recall of the largest class, of the second and so on, where the classes differ in size.

    Where the seed decides which class is rare, a class has another size with each seed; the first, second, ... does
    not. Keys are such as "test/recall/of 50", from the number of training images.
    """
    counts: dict[str, int] = result["class_counts"]
    if not class_groups(counts):
        return {}
    return {
        f"test/{metric}/of {count}": result["metrics"][f"test/{metric}/{name}"]
        for name, count in counts.items()
        for metric in ("precision", "recall")
    }


def _untuned(searched: list[Result], study: StudyFile) -> dict[str, str]:
    """By a setting's hash, its label without what was tuned: "gamma=2", or the arm where nothing else varied."""
    several_arms = len({result["setting"]["arm"] for result in searched}) > 1
    labels = {}
    for result in searched if study.tune else []:
        values = {path: value for path, value in result["setting"]["values"].items() if path not in study.tune}
        labels[result["setting_hash"]] = Setting(result["setting"]["arm"], values).label(several_arms)
    return labels
