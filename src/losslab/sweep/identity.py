"""What a study is: study.json; and whether its code and its images are still those that it began with."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.utilities.seed import isolate_rng

from losslab.data import ImageDataModule
from losslab.errors import UserError, notice
from losslab.run import (
    SEED,
    CommandLine,
    Config,
    changed_code,
    code_digests,
    continue_code,
    differences,
    read_record,
    write_whole,
)
from losslab.study import Result, Setting, StudyFile, read_declared, read_result, read_results, result_path

MAY_CHANGE = (
    "trials", "keep", "storage", "family", "baseline", "direction", "population", "max_retry", "time_limit", "tune_per",
)  # fmt: skip
"""Keys of a study file that may change between two calls, because no training depends on them. (`tune_per` may be given
or left out, as long as it means the same.)"""


class StudyChangedError(UserError):
    """The code or the images are not the study's any more. It stops the study, and no setting has failed by it."""


class Identity:
    """A study's study.json, and the checks of code and images against it.

    Args:
        study: the study file.
        folder: runs/<study>.
        command_line: parses and builds the settings.
        lock: the study's lock.
    """

    def __init__(self, study: StudyFile, folder: Path, command_line: CommandLine, lock: FileLock) -> None:
        self._study, self._folder, self._command_line, self._lock = study, folder, command_line, lock
        self._base = command_line.resolved()
        self._file = folder / "study.json"
        self._read: dict[Path, Result] = {}

    def write_record(self, record: Config, accept_code: bool, origin: Path | None = None) -> None:
        """Write study.json.

        Args:
            record: study, experiment, data, declared and command; `code`, the digests of the settings' code; and
                `precision`, by arm, which may depend on the machine.
            accept_code: go on although code changed, and note it in `code_changes`.
            origin: the folder of the study that this one confirms.

        Raises:
            UserError: the folder holds another study, or images or code changed since its last call, or since `origin`.
        """
        record = {"precision": {}} | json.loads(json.dumps(record))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            former = json.loads(self._file.read_text()) if self._file.exists() else None
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot use the study folder {self._folder}: {error}. Repair it, or give another --name."
            ) from None
        if former is not None:
            former["data"] = record["data"] | former["data"]  # of before test images were recorded
            former.setdefault("precision", record["precision"])
            record |= {"way": former["way"]} if "way" in former else {}
            changed = [
                f"{part}.{line}"
                for part in ("study", "experiment", "data", "precision")
                for line in differences(former[part], record[part])
                if part != "study" or not line.startswith(MAY_CHANGE)
            ]
            before, now = (each["declared"].get("direction") for each in (former, record))
            if before != now and {"space", "arm_space", "pruner"} & former["study"].keys():
                changed.append(f"its trials were chosen to {before} {record['declared'].get('monitor')}, not to {now}")
            seeds_tune = [StudyFile.from_declared(each["declared"]).tunes_each_seed for each in (former, record)]
            if record["declared"].get("tune") and seeds_tune[0] != seeds_tune[1]:
                what = [f"tune_per is {'seed' if each else 'study'}" for each in seeds_tune]
                changed.append(f"{what[0]} in it, and {what[1]} in the file")
            if changed:
                differs = f"{self._folder} holds a study that differs: {'; '.join(changed)}."
                raise UserError(f"{differs} Give this one another --name, or give the former values.")
            if "code" not in former and any(self._folder.glob("results/*/*.json")):
                notice(f"{self._folder} has results of before code was recorded: whether it changed is unknown.")
            known, where, instead = former | {"code": self._known_code(former)}, self._folder, "give another --name"
            # An accepted edit may be undone: the study has had that code.
            changes = changed_code(known["code"], record["code"])
            accept_code |= {(name, record["code"][name]) for name in changes} <= _former_code(former)
        elif origin is not None:
            sweep = read_record(origin / "study.json") or {}
            if _images(sweep["data"]) != _images(record["data"]):  # a user's images may depend on the seed
                self.require_still({**self._base, SEED: read_declared(origin).seeds[0]}, _images(sweep["data"]), origin)
            code = {name: digest for name, digest in sweep.get("code", {}).items() if name in record["code"]}
            known, where, instead = {"code": code}, origin, "sweep again under another --name"
        else:
            known, where, instead = {}, self._folder, ""
        record |= continue_code(known, record["code"], where, instead, accept_code)
        if record != former:
            write_whole(self._file, json.dumps(record, indent=1) + "\n")

    def recorded(self, key: str) -> Any:
        """Return what study.json has under a key, or None."""
        return (read_record(self._file) or {}).get(key)

    def note(self, **values: Any) -> None:
        """Write values into study.json."""
        with self._lock:
            record = read_record(self._file) or {}
            if record | values != record:
                write_whole(self._file, json.dumps(record | values, indent=1) + "\n")

    def _known_code(self, record: Config) -> dict[str, str]:
        """Return the digests of study.json, and those of results that differ, unless the user has accepted them."""
        return record.get("code", {}) | dict(self._recorded[0] - _former_code(record))

    @functools.cached_property
    def _recorded(self) -> tuple[set[tuple[str, str]], list[Result]]:
        """What the results recorded before this call of the command, read once: digests of code; and images.

        The latter are of each setting and seed, as `_require_recorded` needs them.
        """
        code: set[tuple[str, str]] = set()
        images: list[Result] = []
        for result in read_results(self._folder):
            code |= result.get("code", {}).items()
            images.append(_own_images(result))
        return code, images

    def require_same_code(self) -> None:
        """Compare the code of the command line's configuration with study.json, which gets what is new to it.

        Raises:
            StudyChangedError: another process trains the study with other code.
        """
        ours = code_digests(self._command_line.resolved())
        record = read_record(self._file)
        if record is None or ours.items() <= record.get("code", {}).items():
            return
        with self._lock:
            record = read_record(self._file) or record
            try:
                record |= continue_code(record, ours, self._folder, "give another --name", accept=False)
            except UserError as error:
                raise StudyChangedError(str(error)) from None
            write_whole(self._file, json.dumps(record, indent=1) + "\n")

    def own_images(self) -> tuple[Config, tuple[str, str]]:
        """Return the study's own configuration, and the name and hash of its images."""
        record = read_record(self._file) or {}
        return {**self._base, SEED: self._study.seeds[0]}, _images(record.get("data", {}))

    def require_same_images(self, data: ImageDataModule, settings: Iterable[str]) -> None:
        """Raise StudyChangedError if images changed since the study began, or since a setting's first result.

        Args:
            data: the images of the next training.
            settings: hashes of the settings that are to be trained; one that varies the data may have other images than
                the study, and those of a user's data module may depend on the seed.
        """
        paths = [path for key in settings for path in result_path(self._folder, key, 0).parent.glob("*.json")]
        for path in paths:
            if path not in self._read and (result := read_result(path)) is not None:  # it is written once
                self._read[path] = _own_images(result)
        found = [self._read[path] for path in paths if path in self._read]
        self._require_recorded(_images({"name": data.data_name, **data.hashes}), found)

    def require_images_of_results(self) -> None:
        """Raise StudyChangedError if a result's images are neither the study's nor those that its setting loads now."""
        self._require_recorded(self.own_images()[1], self._recorded[1])

    def _require_recorded(self, images: tuple[str, str], results: list[Result]) -> None:
        """Load the images of the study and of these results again, each once, where they are not `images`."""
        loaded = set()
        others = (
            (Setting(**each["setting"]).config(self._study, self._base, each["seed"]), _images(each))
            for each in results
            if _images(each) != images
        )
        for config, recorded in (self.own_images(), *others):
            key = json.dumps([config["data"], config[SEED], recorded])
            if recorded != images and key not in loaded:
                self.require_still(config, recorded)
                loaded.add(key)

    def require_still(self, config: Config, images: tuple[str, str], where: Path | None = None) -> None:
        """Raise StudyChangedError if this configuration loads other images now.

        Args:
            config: a whole configuration.
            images: name and hash of the images that it loaded before; "" for what was not recorded.
            where: the folder of the study that they were recorded in, if it is another one.
        """
        if not all(images):
            return
        former = self._command_line.resolved()
        try:
            with isolate_rng():
                self._command_line.parse_config({**config, "trainer": {"accelerator": "cpu", "logger": False}})
                data = self._command_line.build().data
                data.prepare_data()
                data.setup("fit")
            now = _images({"name": data.data_name, **data.hashes})
            found = f"are now {_described(now)}."
        except UserError as error:
            now, found = ("", ""), f"cannot be loaded any more: {error}"
        finally:
            self._command_line.parse_config(former)
        if now != images:
            raise StudyChangedError(
                f"the images of {where or self._folder} were {_described(images)} and {found} Put the former ones back "
                "and repeat the command, which goes on with all results, or give another --name."
            )


def _former_code(record: Config) -> set[tuple[str, str]]:
    """Return the names and digests of the code that study.json had before the changes that a user accepted."""
    return {pair for change in record.get("code_changes", []) for pair in change["former"].items()}


def _images(record: Config) -> tuple[str, str]:
    """Return name and SHA-256 of the images in a result, or in study.json's `data`; "" for what is not recorded."""
    name = record.get("data_name", record.get("name"))
    return name or "", record.get("hashes", record).get("train", "")


def _own_images(result: Result) -> Result:
    """Return what `_require_recorded` needs of a result."""
    return {key: result[key] for key in ("setting", "seed", "data_name", "hashes") if key in result}


def _described(images: tuple[str, str]) -> str:
    return f"{images[0]} (SHA-256 {images[1][:12]})"
