"""`losslab sweep`: check everything, say what it will take, run, and show what came out."""

import json
import os
import shlex
from pathlib import Path

import yaml

from losslab.data import ImageDataModule
from losslab.errors import UserError, did_you_mean
from losslab.metrics import metric_keys
from losslab.report import Summary, show_summary, summarise_folder, write_report
from losslab.run import RUNS, SEED, CommandLine, Config, OptionParser, differences, read_yaml, study_name, write_whole
from losslab.study import (
    Setting,
    StudyFile,
    configure,
    corner_settings,
    grid_settings,
    group_keys,
    read_results,
    read_study,
)
from losslab.sweep.display import Display
from losslab.sweep.storage import shown
from losslab.sweep.study import Study
from losslab.sweep.workers import PARENT, STORAGE, Workers, parent_is_gone


def sweep_command(tokens: list[str]) -> None:
    """Run or continue the study of a file; what is not an option of the sweep changes the experiment, as in `fit`."""
    parser = OptionParser(
        prog="losslab sweep",
        description="Run or continue a study. Ctrl-C or a kill loses no finished result: the same command goes on.",
        epilog="All other options change the experiment, as in `losslab fit`: --data.root DIR --trainer.max_epochs 2",
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the study file, sweeps/gamma.yaml")
    parser.add_argument("--name", help="the study's folder under runs/; by default the study file's name")
    parser.add_argument("--experiment", metavar="FILE", help="replaces the file's experiment: another network, say")
    parser.add_argument("--seeds", type=int, nargs="+", help="replaces the file's seeds")
    parser.add_argument("--trials", type=int, help="replaces the file's number of trials, for a search")
    parser.add_argument("--storage", help="replaces the file's storage: 'journal' or a database URL")
    parser.add_argument("--population", type=population, help="replaces the file's: trainings at once, or 'auto'")
    parser.add_argument("--keep", choices=["best", "all"], help="replaces which checkpoints the file keeps")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes at once on this machine; 1")
    options, changes = parser.parse_known_args(tokens)
    if options.workers < 1:
        raise UserError(f"--workers must be >= 1, got {options.workers}.")
    is_worker = PARENT in os.environ
    if is_worker:
        options.storage = os.environ[STORAGE]
    given = {key: getattr(options, key) for key in ("experiment", "seeds", "trials", "storage", "population", "keep")}
    given = {key: value for key, value in given.items() if value is not None}
    study_file = read_study(options.config, given)
    command_line = CommandLine(["--config", study_file.experiment, *changes], "losslab sweep")
    folder = RUNS / (options.name or options.config.stem)
    if is_worker:  # all is checked by the parent, which shows what comes out, too
        with Display(0, 0) as display:
            worker = Study(study_file, folder, command_line, command_line.resolved(), wait=True)
            worker.run(display, parent_is_gone)
        return
    content = read_yaml(options.config) | given
    content["storage"] = shown(study_file.storage)
    # A database's password has no place in a record.
    storage = [] if options.storage is None else ["--storage", content["storage"]]
    command = f"losslab sweep {shlex.join([*without(tokens, '--storage'), *storage])}"
    workers = without(tokens, "--workers", "--storage") if options.workers > 1 else None
    study = run_study(
        study_file, content, folder, command_line, command_line.resolved(), command, options.workers, workers
    )
    summary, _ = summarise_folder(folder)
    show_summary(summary, folder)
    write_best(folder, study, summary)
    write_report(folder)


def without(tokens: list[str], *names: str) -> list[str]:
    """The command line without these options and their values."""
    kept: list[str] = []
    skip = False
    for token in tokens:
        if not skip and token.split("=")[0] not in names:
            kept.append(token)
        skip = not skip and token in names
    return kept


def population(text: str) -> int | str:
    """The value of `--population`."""
    return text if text == "auto" else int(text)


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
    record = {
        "study": content,
        "experiment": base,
        "data": {"name": data.data_name, **data.hashes},
        "declared": study_file.declared() | {"storage": shown(study_file.storage)},
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
            configure(command_line, study, base, setting, study.seeds[0])
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
            raise UserError(f"there is no metric {key!r}{did_you_mean(key, known)}")
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


def write_best(folder: Path, study: Study, summary: Summary) -> None:
    """Write the chosen setting's whole configuration, with the reason for the choice in front."""
    chosen = summary.chosen
    setting = Setting(chosen.arm, chosen.varied)
    configure(study.command_line, study.file, study.base, setting, study.file.seeds[0])
    config = yaml.safe_dump(study.command_line.resolved(), sort_keys=False)
    reason = f"# {chosen.label}, chosen by the study {folder.name} on validation.\n# {' '.join(summary.answer)}\n"
    if chosen is not summary.best:
        reason += f"# So this is the baseline, {chosen.label}, and not {summary.best.label}.\n"
    write_whole(folder / "best.yaml", f"{reason}# Train it: losslab fit --config {folder}/best.yaml\n{config}")
    print(f"{folder}/best.yaml: {chosen.label}")
