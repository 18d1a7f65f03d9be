"""`losslab sweep`: check everything, print the number of trainings and the disk space, run, show the results."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import torch

from losslab.data import ImageDataModule
from losslab.errors import UserError, did_you_mean, notice
from losslab.losses import describe_loss, ignored_label
from losslab.metrics import metric_keys
from losslab.report import (
    fewest_seeds,
    is_loss,
    loss_identity,
    metric_title,
    most_comparisons,
    show_summary,
    summarise_folder,
    write_best,
    write_report,
)
from losslab.run import (
    ACCEPT,
    RUNS,
    SEED,
    CommandLine,
    Config,
    OptionParser,
    Parts,
    code_digests,
    named_folder,
    read_yaml,
    require_complete,
    study_name,
)
from losslab.study import (
    Setting,
    StudyFile,
    candidate_settings,
    count_results,
    group_keys,
    read_study,
    settings_to_check,
)
from losslab.sweep.display import Display
from losslab.sweep.speed import choose_way
from losslab.sweep.storage import hide_password
from losslab.sweep.study import Study
from losslab.sweep.workers import PARENT, STORAGE, Workers, parent_is_gone


def sweep_command(tokens: list[str]) -> None:
    """Run or continue the study of a file; options that the sweep does not know change the experiment, as in `fit`."""
    parser = OptionParser(
        prog="losslab sweep",
        description="Run or continue a study. Ctrl-C or a kill loses no finished result; the same command continues.",
        epilog="All other options change the experiment, as in `losslab fit`: --data.root DIR --trainer.max_epochs 2",
    )
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="the study file, such as sweeps/gamma.yaml"
    )
    parser.add_argument("--name", help="the study's folder under runs/ (default: the file's name)")
    parser.add_argument("--experiment", metavar="FILE", help="replaces the file's experiment, for another network")
    parser.add_argument("--seeds", type=int, nargs="+", help="replaces the file's seeds")
    parser.add_argument("--trials", type=int, help="replaces the file's number of trials, for a search")
    parser.add_argument("--storage", help="replaces the file's storage: 'journal' or a database URL")
    parser.add_argument(
        "--margins", nargs="+", type=_margin, metavar="METRIC=SHARE",
        help="replaces the file's margins, which depend on the data, such as val/f1/macro=0.01",
    )  # fmt: skip
    parser.add_argument("--keep", choices=["best", "all"], help="replaces the file's keep: whose checkpoints stay")
    add_running_options(parser)
    options, changes = parser.parse_known_args(tokens)
    require_positive(options, "workers")
    is_worker = PARENT in os.environ
    if not is_worker:  # one of a confirmation is given gamma/confirm
        named_folder(options.config.stem if options.name is None else options.name)
    else:
        options.storage = os.environ[STORAGE]
    keys = ("experiment", "seeds", "trials", "margins", "storage", "population", "keep")
    given = {key: value for key in keys if (value := getattr(options, key)) is not None}
    if options.margins is not None:
        given["margins"] = dict(options.margins)
    study_file = read_study(options.config, given)
    command_line = CommandLine(["--config", study_file.experiment, *changes], "losslab sweep")
    study = Study(study_file, RUNS / (options.name or options.config.stem), command_line)
    if is_worker:  # its parent has checked everything, and shows the results
        with Display(0, 0) as display:
            study.open(wait=True)
            study.run(display, parent_is_gone)
        return
    # study.json must not hold a database's password.
    storage = [] if options.storage is None else ["--storage", hide_password(study_file.storage)]
    command = f"losslab sweep {shlex.join([*without_options(tokens, '--storage'), *storage])}"
    worker_tokens = without_options(tokens, "--workers", "--storage")
    run_study(study, read_yaml(options.config) | given, command, options, worker_tokens)
    summary, _ = summarise_folder(study.folder)
    show_summary(summary, study.folder)
    if close := summary.close_choices:
        notice(f"how close the best two values were, {metric_title(study_file.monitor)}: {'; '.join(close)}.")
    chosen = summary.chosen
    study.configure(Setting(chosen.arm, chosen.varied | chosen.median_choices), study_file.seeds[0])
    write_best(study.folder, summary, command_line.resolved())
    write_report(study.folder)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add --population, --workers and --accept-code-change, which `sweep` and `confirm` share."""
    parser.add_argument(
        "--population", type=number_or_auto, metavar="N", help="trainings at once, or 'auto' (default: the file's)"
    )
    parser.add_argument(
        "--workers", type=number_or_auto, default="auto", metavar="N",
        help="processes on this machine (default: auto, as fast as the machine allows, measured by a few steps)",
    )  # fmt: skip
    parser.add_argument(ACCEPT, action="store_true", help="go on although code changed; the page shows it")


def _margin(text: str) -> tuple[str, float]:
    """Parse one of --margins."""
    metric, _, share = text.partition("=")
    return metric, float(share)


def number_or_auto(text: str) -> int | str:
    """Parse --population or --workers; argparse names this function in its error message."""
    return text if text == "auto" else int(text)


def require_positive(options: argparse.Namespace, *names: str) -> None:
    """Raise UserError if one of these options is a number < 1."""
    for name in names:
        if isinstance(value := getattr(options, name), int) and value < 1:
            raise UserError(f"--{name} must be >= 1, got {value}.")


def without_options(tokens: list[str], *names: str) -> list[str]:
    """Return the command line without these options and their values, and without --accept-code-change."""
    kept: list[str] = []
    skip = False
    for token in tokens:
        if not skip and token.split("=")[0] not in (ACCEPT, *names):
            kept.append(token)
        skip = not skip and token in names
    return kept


def run_study(
    study: Study,
    content: Config,
    command: str,
    options: argparse.Namespace,
    worker_tokens: list[str],
    origin: Path | None = None,
) -> None:
    """Check a study, train what is left of it, and print its failures.

    Args:
        study: the study, not opened yet; afterwards it has one result or more.
        content: the content of the study file, for study.json.
        command: the user's command, for study.json.
        options: the number of workers or "auto", and whether to go on although code changed; see `add_running_options`.
        worker_tokens: arguments of `losslab sweep` for each process, if there are several.
        origin: the folder of the study that this one confirms.

    Raises:
        UserError: before any training, if a setting, the data or the folder cannot be used, or the folder holds another
            study; if code or images changed; afterwards, if no training succeeded.
    """
    checked = prepare_study(study, content, command, options, origin)
    study.open()
    done, total = count_results(study.folder), study.trials.total()
    _announce(study, done, checked.parameters, checked.data)
    way = choose_way(study, options.workers, checked.first, total - done, study.identity.recorded("way"))
    study.identity.note(way=list(way))
    study.file.population = way.population
    with Display(total, done) as display:
        if way.workers == 1:
            study.run(display)
        else:
            Workers(way.workers, [*worker_tokens, "--population", str(way.population)], study).run(display)
    for label, failure in study.failures():
        print(f"{label} failed: {failure}")
    if not count_results(study.folder):
        raise UserError(f"no training of {study.folder} succeeded; the errors are above.")


class Checked(NamedTuple):
    """A study whose settings were built once.

    Args:
        data: the experiment's data.
        parameters: number of parameters of the largest model.
        first: the parts of the first setting, with its data set up.
        precision: of each arm's Trainer.
        code: digests of all settings' code.
    """

    data: ImageDataModule
    parameters: int
    first: Parts
    precision: dict[str, str]
    code: dict[str, str]


def prepare_study(
    study: Study, content: Config, command: str, options: argparse.Namespace, origin: Path | None = None
) -> Checked:
    """Check a study and write its study.json; arguments and errors as of `run_study`."""
    checked = _check_settings(study)
    data = checked.data
    storage = {"storage": hide_password(study.file.storage)}
    record = {
        "study": content | storage,
        "experiment": study.base,
        "data": {"name": data.data_name, **data.hashes},
        "declared": study.file.declared() | storage,
        "command": command,
        "code": checked.code,
        "precision": checked.precision,
    }
    study.identity.write_record(record, options.accept_code_change, origin)
    study.identity.require_images_of_results()
    return checked


def _check_settings(study: Study) -> Checked:
    """Parse and build every setting of a grid, or the corners of a search; read and check the data once."""
    file, command_line = study.file, study.command_line
    command_line.parse_config({**study.base, SEED: file.seeds[0]})
    data, data_config = command_line.build().data, command_line.resolved()["data"]
    data.prepare_data()
    data.setup("fit")
    if file.stage == "confirm":
        data.setup("test")  # a missing file is found now, not after hours of training
    code = dict[str, str]()
    endpoints = (file.monitor, *file.family)
    first: list[Parts] = []
    precision = dict[str, str]()
    largest, dropped, losses, labels = 0, dict[str, list[str]](), dict[str, str](), dict[str, str]()
    ignored = dict[int | None, str]()
    for setting in settings_to_check(file):
        label = study.label(setting)
        try:
            identity = study.configure(setting, file.seeds[0])
            config = command_line.resolved()
            code |= code_digests(config)
            precision.setdefault(setting.arm, str(config["trainer"]["precision"]))
            parts = command_line.build()
            require_complete(config, parts, as_result=True)
            own_data = data if config["data"] == data_config else parts.data
            own_data.prepare_data()
            own_data.setup("fit")
            first = first or [parts._replace(data=own_data)]
            parts.model.prepare_loss(parts.trainer, own_data)  # type: ignore[operator]
        except UserError as error:
            raise UserError(f"setting {label}: {error}") from error
        if not file.is_search and identity in labels:
            raise UserError(f"settings {labels[identity]} and {label} have the same configuration: delete one.")
        labels[identity] = label
        left_out = ignored_label(getattr(parts.model, "loss", None))
        ignored.setdefault(left_out if left_out in range(data.num_classes) else None, label)
        if any(map(is_loss, endpoints)):
            by_frequency = _weighs_by_frequency(parts.model)
            losses.setdefault(
                loss_identity(config, describe_loss(parts.model.loss), by_frequency), setting.label(several_arms=True)
            )
        largest = max(largest, sum(parameter.numel() for parameter in parts.model.parameters()))
        if "model" in file.arms[setting.arm]:
            dropped[setting.arm] = _dropped_arguments(study.base, config)
    for arm, arguments in dropped.items():
        if arguments:
            notice(f"arm {arm} replaces the model: it drops the experiment's {', '.join(arguments)}.")
    if len(ignored) > 1:
        raise UserError(
            f"settings ignore different labels ({' and '.join([*ignored.values()][:2])}), so their metrics are of "
            "different images. Give their losses the same ignore_index."
        )
    groups = group_keys(dict(zip(data.class_names, data.class_counts.tolist(), strict=True)))
    known = [f"val/{key}" for key in ("loss", *metric_keys(data.class_names), *groups)]
    for key in (*endpoints, *file.margins):
        if key not in known:
            raise UserError(f"there is no metric {key!r}{did_you_mean(key, known)}")
    if len(losses) > 1:
        raise UserError(
            f"{'monitor' if is_loss(file.monitor) else 'family'} is val/loss, but settings differ in their loss "
            f"({' and '.join([*losses.values()][:2])}), and losses are on different scales. Give another metric, such "
            "as val/f1/macro."
        )
    return Checked(data, largest, first[0], precision, code)


def _weighs_by_frequency(model: Any) -> bool:
    """Return whether the values of a model's loss depend on how many training images each class has."""
    loss, classes = model.loss, model.num_classes
    if not hasattr(loss, "set_class_counts"):
        return False
    values, labels = [], torch.arange(classes)  # (C,)
    logits = torch.arange(classes * classes).reshape(classes, classes).sin()  # (C, C)
    try:
        for counts in (torch.ones_like(labels), labels + 1):
            loss.set_class_counts(counts)
            values.append(loss(logits, labels).sum().item())
    except (ValueError, RuntimeError):  # it cannot be trained either, which the training says
        return False
    return values[0] != values[1]


def _dropped_arguments(base: Config, config: Config) -> list[str]:
    """Return which of the model's loss, optimizer and lr_scheduler `base` sets and `config` leaves at their default."""
    before, after = (each["model"]["init_args"] for each in (base, config))
    return [name for name in ("loss", "optimizer", "lr_scheduler") if before.get(name) and not after.get(name)]


def _announce(study: Study, done: int, parameters: int, data: ImageDataModule) -> None:
    file, total = study.file, study.trials.total()
    kind = f"{file.trials} trials x" if file.is_search else f"{total // len(file.seeds)} settings x"
    if file.tunes_each_seed:  # some seeds may have extended their lists already
        kind = f"{len(candidate_settings(file))} settings tuned by each of"
    # Per training: logits, labels, and about 60 kB of other files. Per checkpoint, best and last: weights, two moments.
    # A setting may be the best until its last seed; in a search, and where seeds tune, the others go meanwhile.
    replicates = len(file.seeds) * (len(candidate_settings(file)) if file.tunes_each_seed else 1)
    one_by_one = file.tunes_each_seed or not file.trains_by_seed
    kept = min(total, 2 * replicates) if one_by_one and file.keep == "best" else total
    images = len(data.split("val").labels) + (len(data.load_test().labels) if file.stage == "confirm" else 0)
    predictions = images * (4 * data.num_classes + 8)
    megabytes = (total * (predictions + 60_000) + kept * 2 * 12 * parameters) / 1e6
    print(
        f"Study {study_name(study.folder)} on {data.data_name}: {kind} {len(file.seeds)} seeds = {total} trainings, "
        f"{done} of them done; up to {megabytes:.0f} MB in {study.folder}. Ctrl-C stops; the same command continues."
    )
    if file.tune and not file.tunes_each_seed:
        notice("tune_per is study: one value for all seeds, and no interval contains that choice. tune_per: seed does.")
    say_seeds_needed(file, data)


def say_seeds_needed(file: StudyFile, data: ImageDataModule) -> None:
    """Log a notice if the study has too few seeds for any verdict on its declared family."""
    counts = dict(zip(data.class_names, data.class_counts.tolist(), strict=True))
    settings, metrics = len(candidate_settings(file)) - 1, len(file.endpoints([{"class_counts": counts}]))
    comparisons, seeds = settings * metrics, len(file.seeds)
    if file.baseline is None or not comparisons or seeds >= (needed := fewest_seeds(comparisons)):
        return
    at_most = f"; {seeds} seeds allow {most}" if (most := most_comparisons(seeds)) else ""
    notice(
        f"{seeds} seed{'s' * (seeds > 1)} can show no difference in a family of {comparisons} comparisons "
        f"({settings} setting{'s' * (settings > 1)} in {metrics} metrics), which takes {needed} seeds or more{at_most}."
        " Give more seeds, or a smaller family."
    )
