"""A study's confirmations, runs/<study>/confirm and so on: fresh seeds, and what the test images said of them."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from losslab.report.study_summary import Summary, summarise
from losslab.run.config import read_yaml
from losslab.run.folder import study_name
from losslab.study.results import Result, read_results
from losslab.study.study_file import Declared

CONFIRM = "confirm"
TEST = "test"
"""The folder in a confirmation that holds a result for each run that was read on the test images."""


class Confirmation(NamedTuple):
    """What the test images said.

    Args:
        summary: of the test metrics, against the same baseline.
        reads: runs that were read.
        second_reads: those among them whose configuration and seed had been read before.
        whole: whether every setting that was to be confirmed has been read at every seed.
    """

    summary: Summary
    reads: int
    second_reads: int
    whole: bool

    @property
    def reads_told(self) -> str:
        """In words, for people."""
        again = f", {self.second_reads} of them not for the first time" if self.second_reads else ", each once"
        return f"{self.reads} runs{again}"

    @property
    def status_told(self) -> str:
        """How many runs have read the test images, and whether that is all, in whole sentences."""
        unfinished = "" if self.whole else " It is not finished: what is missing is not compared."
        return f"Test images read: {self.reads_told}.{unfinished}"


def confirmation_folders(study: Path) -> list[Path]:
    """runs/<study>/confirm, confirm-2 and so on, in their order."""
    found = [file.parent for file in study.glob(f"{CONFIRM}*/study.yaml")]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def read_confirmation(folder: Path) -> Confirmation | None:
    """What runs/<study>/confirm holds; None if no test image has been read for it.

    Raises:
        UserError: its record is not whole.
    """
    results = read_results(folder / TEST)
    if not results:
        return None
    declared = Declared.read(folder)
    planned = len(read_yaml(folder / "study.yaml")["arms"]) * len(declared.seeds)
    return confirmation_of(study_name(folder), results, declared, len(results) == planned)


def confirmation_of(name: str, results: list[Result], declared: Declared, whole: bool) -> Confirmation:
    """What results with test metrics, one or more, say.

    Args:
        name: runs/<study>/confirm without "runs/".
        results: those in its folder `TEST`.
        declared: what the confirmation declared, in terms of the validation split.
        whole: whether all that was to be read is among the results.
    """
    told = dataclasses.replace(
        declared, monitor=_of_test(declared.monitor), family=[_of_test(key) for key in declared.family]
    )
    second = sum(result.get("earlier_reads", 0) > 0 for result in results)
    return Confirmation(summarise(name, results, told), len(results), second, whole)


def read_confirmations(study: Path) -> list[Confirmation]:
    """Those of runs/<study> for which test images have been read."""
    read = [read_confirmation(folder) for folder in confirmation_folders(study)]
    return [confirmation for confirmation in read if confirmation is not None]


def is_over(folder: Path) -> bool:
    """Whether a confirmation has nothing left to do: each run that did not fail is read, and the tables are written."""
    whole = len(read_results(folder)) == len(read_results(folder / TEST)) > 0
    return whole and (folder / "summary.csv").is_file()


def _of_test(key: str) -> str:
    return f"test/{key.removeprefix('val/')}"
