"""A study from its file to its results: everything is checked first, then what is left is run."""

import dataclasses
import difflib
import json
from pathlib import Path

from losslab.data import ImageDataModule
from losslab.errors import UserError
from losslab.metrics import metric_keys
from losslab.run.command_line import CommandLine
from losslab.run.config import SEED, Config, differences
from losslab.run.folder import study_name, write_whole
from losslab.study.results import group_keys, read_results
from losslab.study.setting import corner_settings, grid_settings, take_setting
from losslab.study.study_file import Declared, StudyFile
from losslab.sweep.display import Display
from losslab.sweep.storage import shown
from losslab.sweep.study import Study
from losslab.sweep.workers import Workers

MAY_CHANGE = ("trials", "keep", "storage", "family", "baseline", "population", "max_retry", "time_limit")
"""Keys of a study file that may change between two calls, because no training depends on them."""


def run_study(
    study_file: StudyFile,
    content: Config,
    folder: Path,
    command_line: CommandLine,
    base: Config,
    command: str,
    workers: int = 1,
    tokens: list[str] | None = None,
) -> Study:
    """Run what is left of a study.

    Args:
        study_file: the checked study.
        content: the same as plain values, for the study's record.
        folder: runs/<study>.
        command_line: parses and builds.
        base: the resolved experiment that the study starts from.
        command: how it was called, for the study's record.
        workers: processes that run it.
        tokens: the command that each of them is called with, if they are several.

    Returns:
        The finished study, with one result or more.

    Raises:
        UserError: a setting, the data or the folder are unfit, or the folder holds another study: before any training;
            or no training succeeded.
    """
    data, parameters = _check_settings(study_file, command_line, base)
    declared = Declared(**{field.name: getattr(study_file, field.name) for field in dataclasses.fields(Declared)})
    declared = dataclasses.replace(declared, storage=shown(study_file.storage))
    record = {
        "study": content,
        "experiment": base,
        "data": {"name": data.data_name, **data.hashes},
        "declared": declared.plain(),
        "command": command,
    }
    _same_study(folder, record)
    study = Study(study_file, folder, command_line, base)
    done = len(read_results(folder))
    _announce(study, study_file, folder, done, parameters, data)
    with Display(study.total_trainings(), done) as display:
        if tokens is None:
            study.run(display)
        else:
            Workers(workers, tokens, study, folder).run(display)
    for label, reason in study.failures():
        print(f"{label} failed: {reason}")
    if not read_results(folder):
        raise UserError(f"no training of {folder} succeeded; the reasons are above.")
    return study


def _check_settings(study: StudyFile, command_line: CommandLine, base: Config) -> tuple[ImageDataModule, int]:
    """Parse and build every setting of a grid, or the corners of a search; read and check the data once.

    Returns:
        The data as the experiment has them, and the parameters of the largest model.
    """
    command_line.parse_config({**base, SEED: study.seeds[0]})
    data = command_line.build().data
    largest = 0
    for setting in corner_settings(study) if study.is_search else grid_settings(study):
        try:
            take_setting(command_line, study, base, setting, study.seeds[0])
            model = command_line.build().model
        except UserError as error:
            raise UserError(f"setting {setting.label(len(study.arms) > 1)}: {error}") from error
        largest = max(largest, sum(parameter.numel() for parameter in model.parameters()))
    data.prepare_data()
    data.setup("fit")
    if study.stage == "confirm":
        data.load_test()  # that it is there is seen now, not after hours of training
    groups = group_keys(dict(zip(data.class_names, data.class_counts.tolist(), strict=True)))
    known = [f"val/{key}" for key in ("loss", *metric_keys(data.class_names), *groups)]
    for key in (study.monitor, *study.family):
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise UserError(f"there is no metric {key!r}{f'; did you mean {near[0]}?' if near else ''}")
    return data, largest


def _same_study(folder: Path, record: Config) -> None:
    """Keep what the study is, or refuse to mix another one into its folder."""
    file = folder / "study.json"
    record = json.loads(json.dumps(record))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_whole(file, json.dumps(record, indent=1) + "\n")
            return
        former = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use the study folder {folder}: {error}. Mend it, or give another --name.") from None
    changed = [
        f"{part}.{line}"
        for part in ("study", "experiment", "data")
        for line in differences(former[part], record[part])
        if part != "study" or not line.startswith(MAY_CHANGE)
    ]
    if not changed and record != former:
        write_whole(file, json.dumps(record, indent=1) + "\n")
    if changed:
        raise UserError(f"{folder} holds a study that differs: {'; '.join(changed)}. Give this one another --name.")


def _announce(study: Study, file: StudyFile, folder: Path, done: int, parameters: int, data: ImageDataModule) -> None:
    total = study.total_trainings()
    kind = f"{file.trials} trials" if file.is_search else f"{total // len(file.seeds)} settings"
    # Logits and labels, records of about 60 kB; a checkpoint holds weights and Adam's two moments, best and last.
    kept = total if file.keep == "all" else 2 * len(file.seeds)
    images = len(data.split("val").labels) + (len(data.load_test().labels) if file.stage == "confirm" else 0)
    predictions = images * (4 * data.num_classes + 8)
    megabytes = (total * (predictions + 60_000) + kept * 2 * 12 * parameters) / 1e6
    print(
        f"Study {study_name(folder)} on {data.data_name}: {kind} x {len(file.seeds)} seeds = {total} trainings, "
        f"{done} of them done; up to {megabytes:.0f} MB in {folder}. Ctrl-C stops; the same command goes on."
    )
