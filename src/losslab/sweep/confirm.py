"""`losslab confirm`: the best settings of a sweep on fresh seeds, or all on its own; reads the test images once.

The sweep is optimistic about its best setting: the best of many is partly lucky. The confirmation is a study of its
own, runs/<study>/confirm, whose settings and seeds are fixed before it begins. Where each seed tunes and all settings
are confirmed, nothing was chosen among them: the confirmation is of the sweep's own trainings.
"""

import argparse
import json
import shlex
from pathlib import Path

from filelock import FileLock

from losslab.errors import UserError
from losslab.report import (
    CONFIRM_FOLDER,
    TEST_FOLDER,
    Summary,
    confirmation_folders,
    is_over,
    lost_results,
    read_confirmations,
    read_trials,
    show_summary,
    summarise_folder,
    write_report,
)
from losslab.run import (
    RUNS,
    CommandLine,
    Config,
    OptionParser,
    RunFolder,
    config_hash,
    dump_yaml,
    earlier_reads,
    evaluate_run,
    find_finished_run,
    read_record,
    read_yaml,
    study_name,
    utc_now,
    write_whole,
)
from losslab.study import (
    Result,
    Setting,
    SettingResults,
    planned_trials,
    read_declared,
    read_result,
    read_results,
    read_study,
    result_path,
    write_result,
)
from losslab.sweep.command import (
    add_running_options,
    prepare_study,
    require_positive,
    run_study,
    say_seeds_needed,
    without_options,
)
from losslab.sweep.ownership import count_spent
from losslab.sweep.study import Study
from losslab.sweep.training import checkpoint_folders, drop_checkpoints

KEPT_KEYS = ("monitor", "family", "margins", "population", "max_retry", "time_limit")
"""Keys of a study file that its confirmation takes over."""

TUNING_KEYS = ("tune", "tune_per", "draws")
"""Those that it also takes over where its fresh seeds tune."""

SEEDS = 12
"""Fresh seeds, unless their number is given: the fewest that allow verdicts in a family of 102 comparisons."""


def confirm_command(tokens: list[str]) -> None:
    """Confirm the best settings of a finished study against its baseline."""
    parser = OptionParser(
        prog="losslab confirm",
        description="Train a study's best settings and its baseline again on fresh paired seeds, read the test images "
        "once, and write the verdicts. With --top all of a study whose seeds tune, nothing is trained: its own "
        "trainings are confirmed. After a kill the same command continues; after a kill while it reads the test "
        "images, it needs --again.",
        epilog="All other options act as in `losslab fit`, and are refused if a result depends on them: "
        "--data.root DIR --trainer.logger WandbLogger",
    )
    parser.add_argument("study", type=Path, help="the study's folder, such as runs/gamma")
    parser.add_argument("--top", default="3", metavar="N", help="number of best settings, or 'all' (default: 3)")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help=f"number of fresh seeds (default: {SEEDS}, or none if none are needed)"
    )
    parser.add_argument("--again", action="store_true", help="read the test images again; the page shows it")
    add_running_options(parser)
    options, changes = parser.parse_known_args(tokens)
    require_positive(options, *["seeds"] * (options.seeds is not None), "workers")
    top = _parse_top(options.top)
    folder = _study_folder(options.study)
    summary, record = _read_finished(folder)
    chosen, baseline = _choose(summary, top)
    of_sweep = summary.study.tunes_each_seed and top is None and options.seeds is None
    given = {} if options.population is None else {"population": options.population}
    confirm = _write_files(folder, record, summary, chosen, baseline, options, of_sweep)
    study_file = read_study(confirm / "study.yaml", given)
    command_line = CommandLine(["--config", study_file.experiment, *changes], "losslab confirm")
    study = Study(study_file, confirm, command_line)
    if of_sweep:
        runs = _runs_of_sweep(summary.study.replicates(read_results(folder)), chosen)
        _require_runs(confirm, runs)
        hashes = {config_hash(RunFolder(confirm / run["run"]).config()) for run in runs if _is_unread(confirm, run)}
    else:
        hashes = _unread_hashes(study)
    _require_same_settings(study, chosen, summary.tried, changes)
    reads = earlier_reads(hashes, record["data"]["name"])
    if reads and not options.again:
        raise UserError(
            f"the test images were already read for {len(reads)} of these configurations and seeds, last at "
            f"{reads[-1]['at']} for {reads[-1]['run']}. --again reads them once more, and the page shows it."
        )
    content = read_yaml(confirm / "study.yaml") | given
    command = f"losslab confirm {shlex.join(without_options(tokens, '--workers'))}"
    if of_sweep:
        say_seeds_needed(study_file, prepare_study(study, content, command, options, folder).data)
        for run in runs:
            write_result(result_path(confirm, run["setting_hash"], run["seed"]), run)
    else:
        worker_tokens = ["--config", str(confirm / "study.yaml"), "--name", study_name(confirm), *changes]
        run_study(study, content, command, options, worker_tokens, folder)
    _read_test_images(confirm, changes)
    confirmed, _ = summarise_folder(confirm)
    if not study_file.tunes_each_seed:
        drop_checkpoints(checkpoint_folders(confirm), lambda setting, _: setting == confirmed.best.setting_hash)
    confirmations = read_confirmations(folder)
    confirmation = next(each for each in confirmations if each.folder == confirm)
    show_summary(confirmation.summary, confirm)
    print(f"{confirmation.status_text} {confirmation.choice_text}")
    write_report(folder, confirmations)


def _require_same_settings(
    study: Study, chosen: list[SettingResults], tried: list[SettingResults], changes: list[str]
) -> None:
    """Raise UserError if a setting is not configured as the sweep trained it; where it tuned, at its first choice."""
    for setting in chosen:
        tuned = {path: values[0] for path, values in setting.choices.items()}
        varied = setting.varied | tuned
        trained = next(each.setting_hash for each in tried if (each.arm, each.varied) == (setting.arm, varied))
        if study.configure(Setting(setting.label, tuned), study.file.seeds[0]) != trained:
            advice = "The code, or what precision: auto means on this machine, has changed since: sweep again"
            advice = f"Leave out {' '.join(changes)}" if changes else advice
            raise UserError(f"{setting.label} is not configured as the sweep had it. {advice}.")


def _runs_of_sweep(results: list[Result], chosen: list[SettingResults]) -> list[Result]:
    """Return the sweep's results of the chosen settings as those of its confirmation, whose arms are these settings."""
    labels = {setting.setting_hash: setting.label for setting in chosen}
    return [
        result | {"label": label, "setting": {"arm": label, "values": {}}, "run": f"../{result.get('run', 'gone')}"}
        for result in results
        if (label := labels.get(result["setting_hash"])) is not None
    ]


def _require_runs(confirm: Path, results: list[Result]) -> None:
    """Raise UserError if a run that is still to be evaluated is gone, or was never in this folder."""
    for result in results:
        checkpoints = RunFolder(confirm / result["run"]).checkpoints
        if _is_unread(confirm, result) and not (checkpoints / "last.ckpt").is_file():
            raise UserError(
                f"the run of {result['label']} seed={result['seed']}, which is to be tested, is gone from "
                f"{confirm.parent}/runs. --seeds {SEEDS} confirms all settings on fresh seeds."
            )


def _parse_top(text: str) -> int | None:
    if text != "all" and not (text.isdigit() and int(text) >= 1):
        raise UserError(f"--top must be a number >= 1 or all, got {text!r}.")
    return None if text == "all" else int(text)


def _study_folder(given: Path) -> Path:
    """Return the folder as runs/<study>, whether it was given relative or absolute."""
    root = RUNS.resolve()
    if not given.resolve().is_relative_to(root):
        raise UserError(
            f"{given} is not in {RUNS}/ of the current folder; call `losslab confirm` where the sweep was called."
        )
    folder = RUNS / given.resolve().relative_to(root)
    if folder.name.startswith(CONFIRM_FOLDER) and (folder / "study.yaml").is_file():
        raise UserError(f"{folder} is a confirmation itself; confirm {folder.parent} once more, with --again.")
    return folder


def _read_finished(folder: Path) -> tuple[Summary, Config]:
    """Return the study's summary and its study.json; raise UserError if the study is not finished."""
    summary, _ = summarise_folder(folder)
    record = json.loads((folder / "study.json").read_text())
    known = read_trials(folder, summary.study)
    if known.unreadable:
        password = " Put the database's password into ~/.pgpass or PGPASSWORD."
        raise UserError(
            f"whether {folder} is finished is unknown, since its trials cannot be read ({known.unreadable})."
            + password * (summary.study.storage != "journal")
        )
    open_trials = sum(not trial.state.is_finished() for trial in known.trials)
    left = max(open_trials, (record["study"].get("trials") or 0) - count_spent(known.trials))
    if left == 0 and summary.study.tunes_each_seed:
        if lost := lost_results(known.trials, read_results(folder)):  # a seed would choose among the others
            raise UserError(
                f"{folder} lacks the results of {lost} finished trials. Put them back, or delete its journal.log: "
                f"its own command then trains them again: {record.get('command')}"
            )
        left = summary.left
    if left > 0 or not summary.complete:
        raise UserError(
            f"{folder} is not finished{f': {left} trials are left' if left > 0 else ''}. Its own command finishes it: "
            f"{record.get('command')}"
        )
    if summary.baseline is None and summary.study.baseline is not None:
        raise UserError(
            f"{folder}: the baseline {summary.study.baseline} has no result for each seed, so there is nothing to "
            "compare with. `losslab sweep` prints its error; give the study another baseline."
        )
    return summary, record


def _choose(summary: Summary, top: int | None) -> tuple[list[SettingResults], str]:
    """Return the settings to confirm, in the study's order, and the baseline's label.

    The declared baseline does not count as one of the best. A search has none; its best setting is the baseline.
    """
    baseline = summary.baseline or summary.ranked[0]
    kept = [baseline, *[setting for setting in summary.ranked if setting is not baseline][:top]]
    if len(kept) == 1:
        raise UserError(f"{summary.name} has one setting only: there is nothing to compare it with.")
    return [setting for setting in summary.complete if setting in kept], baseline.label


def _write_files(
    folder: Path,
    record: Config,
    summary: Summary,
    chosen: list[SettingResults],
    baseline: str,
    options: argparse.Namespace,
    of_sweep: bool,
) -> Path:
    """Write the confirmation's study and experiment files, unless a confirmation that began has the same.

    Args:
        folder: runs/<study>.
        record: its study.json.
        summary: its summary.
        chosen: the settings to confirm.
        baseline: the baseline's label.
        options: the number of fresh seeds, and whether to confirm `again`.
        of_sweep: confirm the sweep's own trainings, on its seeds.

    Returns:
        The confirmation's folder.

    Raises:
        UserError: a confirmation with other settings or seeds has begun, and `again` is False.
    """
    study, again = record["study"], options.again
    arms = {s.label: study["arms"][s.arm] | s.varied | (s.median_choices if of_sweep else {}) for s in chosen}
    # A confirmation that was refused before it began has no study.json.
    earlier = [known for known in confirmation_folders(folder) if (known / "study.json").is_file()]
    last = read_yaml(earlier[-1] / "study.yaml") if earlier else {}
    # The same command as before goes on with its number of seeds, whatever is the default now.
    seeds = options.seeds or (len(last["seeds"]) if not again and last.get("arms") == arms else SEEDS)
    used = [*summary.study.seeds, *(seed for known in earlier for seed in read_yaml(known / "study.yaml")["seeds"])]
    if earlier:
        same = last["seeds"] == summary.study.seeds if of_sweep else len(last["seeds"]) == seeds
        if last["arms"] == arms and same and not (again and is_over(earlier[-1])):
            return earlier[-1]
        if not again:
            raise UserError(
                f"the confirmation of {folder} has begun already, with {len(last['seeds'])} seeds of "
                f"{', '.join(last['arms'])}. The same --top and --seeds continue or show it. --again confirms again, "
                "and the page shows it."
            )
    confirm = folder / (CONFIRM_FOLDER if not earlier else f"{CONFIRM_FOLDER}-{len(earlier) + 1}")
    first = max(used) + 1
    tunes = summary.study.tunes_each_seed and not of_sweep
    content: Config = {key: study[key] for key in (*KEPT_KEYS, *TUNING_KEYS * tunes) if key in study}
    if tunes and (own := {s.label: study["arm_tune"][s.arm] for s in chosen if s.arm in study.get("arm_tune", {})}):
        content["arm_tune"] = own
    content |= {
        "experiment": "experiment.yaml",
        "arms": arms,
        "seeds": summary.study.seeds if of_sweep else list(range(first, first + seeds)),
        "baseline": {"arm": baseline},
        "keep": "best" if tunes else "all",
        "stage": "confirm",
    }
    confirm.mkdir(parents=True, exist_ok=True)
    write_whole(confirm / "experiment.yaml", dump_yaml(record["experiment"]))
    write_whole(confirm / "study.yaml", dump_yaml(content))
    return confirm


def _is_unread(confirm: Path, result: Result) -> bool:
    return read_result(_test_path(confirm, result)) is None


def _test_path(confirm: Path, result: Result) -> Path:
    return result_path(confirm / TEST_FOLDER, result["setting_hash"], result["seed"])


def _unread_hashes(study: Study) -> set[str]:
    """Return hashes, seed included, of the planned configurations for which the test images are still to be read."""
    hashes = set()
    tested = {(r["setting"]["arm"], r["seed"]) for r in read_results(study.folder / TEST_FOLDER)}
    for planned in planned_trials(study.file):
        assert planned.seed is not None  # a confirmation has no pruner
        if (planned.setting.arm, planned.seed) not in tested:
            study.configure(planned.setting, planned.seed)
            hashes.add(config_hash(study.command_line.resolved()))
    return hashes


def _read_test_images(confirm: Path, changes: list[str]) -> None:
    """Evaluate the runs of a confirmation that have no test result yet, and write their results; all runs have ended.

    Where its seeds tune, each seed's best run is evaluated. A read is recorded before it happens. After a kill between
    a read and its result, the confirmation needs `--again`.

    Args:
        confirm: the confirmation's folder.
        changes: options of the command line that change no result, such as the folder of the images.
    """
    test_images = (read_record(confirm / "study.json") or {}).get("data", {}).get("test")
    with FileLock(confirm / "test.lock"):  # another call of the same command waits, and finds the results
        results = read_declared(confirm).replicates(read_results(confirm))
        unread = [result for result in results if _is_unread(confirm, result)]
        if unread:
            print(f"Reading the test images for {len(unread)} runs.")
        for result in unread:
            run = RunFolder(confirm / result["run"])
            before = earlier_reads({config_hash(run.config())}, result["data_name"])
            finished = find_finished_run("test", ["--ckpt_path", str(run.checkpoint("last")), *changes])
            _, metrics = evaluate_run("test", finished, test_images)
            reading = {"tested_at": utc_now(), "earlier_reads": len(before)}
            write_result(_test_path(confirm, result), result | {"metrics": result["metrics"] | metrics} | reading)
