"""What a study declared before it ran: what is measured, and what is compared with what."""

import json
from dataclasses import asdict, dataclass
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
        default = [f"val/{metric}/{group}" for group in groups for metric in ("precision", "recall")]
        return list(dict.fromkeys([*(self.family or default), self.monitor]))

    def is_baseline(self, setting: SettingResults) -> bool:
        """Whether `setting` is the declared baseline."""
        return self.baseline is not None and {"arm": setting.arm, **setting.varied} == self.baseline
