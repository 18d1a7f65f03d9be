"""What a study declared before it ran: what is measured, and what is compared with what."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from losslab.errors import UserError
from losslab.report.class_groups import class_groups
from losslab.report.results import Result
from losslab.report.settings import SettingResults


@dataclass(frozen=True)
class Declared:
    """The part of a study file that its summary needs, under the same names; see `StudyFile`."""

    seeds: list[int]
    monitor: str
    direction: str
    baseline: dict[str, Any] | None
    family: list[str]
    storage: str
    tune: dict[str, list[float]] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 if more of the monitored metric is better, else -1."""
        return 1 if self.direction == "maximize" else -1

    @property
    def split(self) -> str:
        """Whose metrics are compared: "val" or, in a confirmation, "test"."""
        return self.monitor.partition("/")[0]

    @classmethod
    def read(cls, folder: Path) -> "Declared":
        """What runs/<study>/study.json holds.

        Raises:
            UserError: there is no study, or its record is not whole.
        """
        try:
            return cls(**json.loads((folder / "study.json").read_text())["declared"])
        except FileNotFoundError:
            raise UserError(f"{folder} holds no study: there is no study.json in it.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder}/study.json cannot be read ({type(error).__name__}: {error}); "
                "`losslab sweep` with the study's file writes it again."
            ) from None

    def plain(self) -> dict[str, Any]:
        """As plain values, which `read` takes."""
        return asdict(self)

    def endpoints(self, results: list[Result]) -> list[str]:
        """The metrics that are compared: the family, and the monitored one, by which the best setting is chosen.

        Without a declared family: macro precision and recall, and those of the tail where there is one.
        """
        tailed = any(class_groups(result.get("class_counts", {})) for result in results)
        groups = ["macro", "tail"] if tailed else ["macro"]
        default = [f"{self.split}/{metric}/{group}" for group in groups for metric in ("precision", "recall")]
        return list(dict.fromkeys([*(self.family or default), self.monitor]))

    def is_baseline(self, setting: SettingResults) -> bool:
        """Whether `setting` is the declared baseline, at whatever value of what is tuned."""
        return self.baseline is not None and self.candidate(setting) == self.baseline

    def candidate(self, setting: SettingResults) -> dict[str, Any]:
        """The arm and the values of a setting, without what is tuned."""
        return {"arm": setting.arm} | {path: value for path, value in setting.varied.items() if path not in self.tune}

    def best(self, settings: list[SettingResults]) -> SettingResults:
        """The one with the best mean of the monitored metric."""
        return max(settings, key=lambda setting: self.sign * setting.mean_sd(self.monitor)[0])

    def tuned(self, settings: list[SettingResults]) -> list[SettingResults]:
        """Of the settings that differ in what is tuned alone the best one; of each that has all its seeds, if any has.

        Best by the mean of the monitored metric, which is optimistic, for all of them alike.
        """
        candidates: dict[str, list[SettingResults]] = {}
        for setting in settings:
            candidates.setdefault(repr(self.candidate(setting)), []).append(setting)
        whole = {key: [s for s in group if self.is_complete(s)] for key, group in candidates.items()}
        return [self.best(whole[key] or group) for key, group in candidates.items()]

    def is_complete(self, setting: SettingResults) -> bool:
        """Whether it has a result for each seed."""
        return setting.seeds == sorted(self.seeds)
