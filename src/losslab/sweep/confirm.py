"""`losslab confirm`: train the best settings of a sweep again on fresh seeds, and read the test images once.

The sweep is optimistic about its best setting: the best of many is partly lucky. The confirmation is a study of its
own, runs/<study>/confirm, whose settings and seeds are fixed before it begins.
"""

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
    read_confirmation,
    read_trials,
    show_summary,
    summarise_folder,
    write_report,
)
from losslab.run import (
    RUNS,
    SEED,
    CommandLine,
    Config,
    FinishedRun,
    OptionParser,
    RunFolder,
    config_hash,
    dump_yaml,
    earlier_reads,
    evaluate_run,
    read_record,
    read_yaml,
    study_name,
    utc_now,
    write_whole,
)
from losslab.study import Setting, SettingResults, read_result, read_results, read_study, result_path, write_result
from losslab.sweep.command import add_running_options, require_positive, run_study, without_options
from losslab.sweep.ownership import count_spent
from losslab.sweep.study import Study
from losslab.sweep.training import checkpoint_folders, drop_checkpoints

KEPT_KEYS = ("monitor", "family", "population", "max_retry", "time_limit")
"""Keys of a study file that its confirmation takes over."""


def confirm_command(tokens: list[str]) -> None:
    """Confirm the best settings of a finished study against its baseline."""
    parser = OptionParser(
        prog="losslab confirm",
        description="Train a study's best settings and its baseline again on fresh paired seeds, read the test images "
        "once, and write the verdicts. After a kill the same command continues; after a kill while it reads the test "
        "images, it needs --again.",
        epilog="All other options act as in `losslab fit`, and are refused if a result depends on them: "
        "--data.root DIR --trainer.logger WandbLogger",
    )
    parser.add_argument("study", type=Path, help="the study's folder, such as runs/gamma")
    parser.add_argument("--top", default="3", metavar="N", help="number of best settings, or 'all' (default: 3)")
    parser.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="number of fresh seeds (default: 10); verdicts need 6"
    )
    parser.add_argument("--again", action="store_true", help="read the test images again; the page shows it")
    add_running_options(parser)
    options, changes = parser.parse_known_args(tokens)
    require_positive(options, "seeds", "workers")
    top = _parse_top(options.top)
    folder = _study_folder(options.study)
    summary, record = _read_finished(folder)
    chosen, baseline = _choose(summary, top)
    given = {} if options.population is None else {"population": options.population}
    confirm = _write_files(folder, record, summary, chosen, baseline, options.seeds, options.again)
    study_file = read_study(confirm / "study.yaml", given)
    command_line = CommandLine(["--config", study_file.experiment, *changes], "losslab confirm")
    study = Study(study_file, confirm, command_line)
    configs: dict[str, Config] = {}
    for setting in chosen:
        setting_hash = study.configure(Setting(setting.label, {}), study_file.seeds[0])
        if setting_hash != setting.setting_hash:
            advice = f"Leave out {' '.join(changes)}" if changes else "The code has changed since: sweep again"
            raise UserError(f"{setting.label} is not configured as the sweep had it. {advice}.")
        configs[setting_hash] = command_line.resolved()
    reads = earlier_reads(_unread_hashes(confirm, configs, study_file.seeds), record["data"]["name"])
    if reads and not options.again:
        raise UserError(
            f"the test images were already read for {len(reads)} of these configurations and seeds, last at "
            f"{reads[-1]['at']} for {reads[-1]['run']}. --again reads them once more, and the page shows it."
        )
    worker_tokens = ["--config", str(confirm / "study.yaml"), "--name", study_name(confirm), *changes]
    worker_tokens += ["--population", str(options.population)] if given else []
    content = read_yaml(confirm / "study.yaml") | given
    command = f"losslab confirm {shlex.join(without_options(tokens, '--workers'))}"
    run_study(study, content, command, options, worker_tokens, folder)
    _read_test_images(confirm, command_line, configs)
    confirmed, _ = summarise_folder(confirm)
    drop_checkpoints(checkpoint_folders(confirm), {confirmed.best.setting_hash})
    confirmation = read_confirmation(confirm)
    assert confirmation is not None
    show_summary(confirmation.summary, confirm)
    print(f"{confirmation.status_text} {confirmation.choice_text}")
    write_report(folder)


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
        raise UserError(
            f"whether {folder} is finished is unknown, since its trials cannot be read ({known.unreadable}). "
            "Put a database's password into ~/.pgpass or PGPASSWORD."
        )
    open_trials = sum(not trial.state.is_finished() for trial in known.trials)
    left = max(open_trials, (record["study"].get("trials") or 0) - count_spent(known.trials))
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
    folder: Path, record: Config, summary: Summary, chosen: list[SettingResults], baseline: str, seeds: int, again: bool
) -> Path:
    """Write the confirmation's study and experiment files, unless a confirmation that began has the same.

    Returns:
        The confirmation's folder.

    Raises:
        UserError: a confirmation with other settings or seeds has begun, and `again` is False.
    """
    arms = {setting.label: record["study"]["arms"][setting.arm] | setting.varied for setting in chosen}
    # A confirmation that was refused before it began has no study.json.
    earlier = [known for known in confirmation_folders(folder) if (known / "study.json").is_file()]
    used = [*summary.study.seeds, *(seed for known in earlier for seed in read_yaml(known / "study.yaml")["seeds"])]
    if earlier:
        last = read_yaml(earlier[-1] / "study.yaml")
        if last["arms"] == arms and len(last["seeds"]) == seeds and not (again and is_over(earlier[-1])):
            return earlier[-1]
        if not again:
            raise UserError(
                f"the confirmation of {folder} has begun already, with {len(last['seeds'])} seeds of "
                f"{', '.join(last['arms'])}. The same --top and --seeds continue or show it. --again confirms again, "
                "and the page shows it."
            )
    confirm = folder / (CONFIRM_FOLDER if not earlier else f"{CONFIRM_FOLDER}-{len(earlier) + 1}")
    first = max(used) + 1
    content: Config = {key: record["study"][key] for key in KEPT_KEYS if key in record["study"]}
    content |= {
        "experiment": "experiment.yaml",
        "arms": arms,
        "seeds": list(range(first, first + seeds)),
        "baseline": {"arm": baseline},
        "keep": "all",
        "stage": "confirm",
    }
    confirm.mkdir(parents=True, exist_ok=True)
    write_whole(confirm / "experiment.yaml", dump_yaml(record["experiment"]))
    write_whole(confirm / "study.yaml", dump_yaml(content))
    return confirm


def _unread_hashes(confirm: Path, configs: dict[str, Config], seeds: list[int]) -> set[str]:
    """Return hashes of the configurations, seed included, for which the test images are still to be read.

    `configs` holds each setting's resolved configuration, by the setting's hash.
    """
    return {
        config_hash({**config, SEED: seed})
        for setting_hash, config in configs.items()
        for seed in seeds
        if read_result(result_path(confirm / TEST_FOLDER, setting_hash, seed)) is None
    }


def _read_test_images(confirm: Path, command_line: CommandLine, configs: dict[str, Config]) -> None:
    """Evaluate the runs of a confirmation that have no test result yet, and write their results; all runs have ended.

    A read is recorded before it happens. After a kill between a read and its result, the confirmation needs `--again`.
    """
    test_images = (read_record(confirm / "study.json") or {}).get("data", {}).get("test")
    with FileLock(confirm / "test.lock"):  # another call of the same command waits, and finds the results
        unread = [
            (result, path)
            for result in read_results(confirm)
            if read_result(path := result_path(confirm / TEST_FOLDER, result["setting_hash"], result["seed"])) is None
        ]
        if unread:
            print(f"Reading the test images for {len(unread)} runs.")
        for result, path in unread:
            run = RunFolder(confirm / result["run"])
            config = {**configs[result["setting_hash"]], SEED: result["seed"]}
            command_line.parse_config(config)
            before = earlier_reads({config_hash(config)}, result["data_name"])
            finished = FinishedRun(run, run.checkpoint("last"), command_line)
            _, metrics = evaluate_run("test", finished, test_images)
            reading = {"tested_at": utc_now(), "earlier_reads": len(before)}
            write_result(path, result | {"metrics": result["metrics"] | metrics} | reading)
