"""`losslab confirm`: what a sweep chose on validation is trained anew on fresh seeds, and read once on the test images.

The search is optimistic about what it chose: the best of many is partly lucky. The confirmation is a study of its own,
runs/<study>/confirm, of settings and seeds that are fixed before it begins; its test images answer once.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml
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
    earlier_reads,
    evaluate_run,
    read_yaml,
    study_name,
    utc_now,
    write_whole,
)
from losslab.study import (
    Setting,
    SettingResults,
    configure,
    read_declared,
    read_result,
    read_results,
    read_study,
    result_path,
    write_result,
)
from losslab.sweep.command import population, run_study, without
from losslab.sweep.ownership import spent
from losslab.sweep.training import checkpoint_folders, drop_checkpoints

KEPT_KEYS = ("monitor", "direction", "family", "population", "max_retry", "time_limit")
"""Keys of a study file that its confirmation takes over."""


def confirm_command(tokens: list[str]) -> None:
    """Confirm the best settings of a finished study against its baseline."""
    parser = OptionParser(
        prog="losslab confirm",
        description="Train a study's best settings and its baseline anew on fresh paired seeds, read the test images "
        "once, and write the verdicts. Killed, the same command goes on; killed while it reads, it asks for --again.",
        epilog="All other options change what does not touch a result: --data.root DIR --trainer.logger WandbLogger",
    )
    parser.add_argument("study", type=Path, help="the study's folder, runs/gamma")
    parser.add_argument("--top", default="3", metavar="N", help="how many of the best settings; or 'all'; 3")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many fresh seeds; 10. Verdicts need 6")
    parser.add_argument("--again", action="store_true", help="read the test images again, which the page tells")
    parser.add_argument("--population", type=population, help="trainings at once, or 'auto'")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes at once on this machine; 1")
    options, changes = parser.parse_known_args(tokens)
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be >= 1, got {getattr(options, name)}.")
    top = _top(options.top)
    folder = _study_folder(options.study)
    record = _record(folder)
    summary = _finished(folder, record)
    chosen, baseline = _chosen(summary, top)
    given = {} if options.population is None else {"population": options.population}
    confirm = _write_files(folder, record, summary, chosen, baseline, options.seeds, options.again)
    study_file = read_study(confirm / "study.yaml", given)
    command_line = CommandLine(["--config", study_file.experiment, *changes], "losslab confirm")
    base = command_line.resolved()
    configs: dict[str, Config] = {}
    for setting in chosen:
        taken = configure(command_line, study_file, base, Setting(setting.label, {}), study_file.seeds[0])
        if taken != setting.setting_hash:
            what = f"Leave out {' '.join(changes)}" if changes else "The code has changed since: sweep again"
            raise UserError(f"{setting.label} is not configured as the sweep had it. {what}.")
        configs[taken] = command_line.resolved()
    reads = earlier_reads(unread_hashes(confirm, configs, study_file.seeds), record["data"]["name"])
    if reads and not options.again:
        raise UserError(
            f"the test images have answered for {len(reads)} of these configurations and seeds already, last at "
            f"{reads[-1]['at']} for {reads[-1]['run']}. --again reads them once more, and the page tells of it."
        )
    worker_tokens = ["--config", str(confirm / "study.yaml"), "--name", study_name(confirm), *changes]
    if options.population is not None:
        worker_tokens += ["--population", str(options.population)]
    content = read_yaml(confirm / "study.yaml") | given | {"storage": study_file.storage}
    command = f"losslab confirm {shlex.join(without(tokens, '--workers'))}"
    run_study(
        study_file, content, confirm, command_line, base, command, options.workers,
        worker_tokens if options.workers > 1 else None,
    )  # fmt: skip
    read_test_images(confirm, command_line, configs)
    best, _ = summarise_folder(confirm)
    drop_checkpoints(checkpoint_folders(confirm), {best.best.setting_hash})
    confirmation = read_confirmation(confirm)
    assert confirmation is not None
    show_summary(confirmation.summary, confirm)
    print(confirmation.status_told)
    write_report(folder)


def _top(text: str) -> int | None:
    if text != "all" and not (text.isdigit() and int(text) >= 1):
        raise UserError(f"--top must be a number >= 1 or all, got {text!r}.")
    return None if text == "all" else int(text)


def _study_folder(given: Path) -> Path:
    """runs/<study>, whichever way it was written."""
    root = RUNS.resolve()
    if not given.resolve().is_relative_to(root):
        raise UserError(f"{given} is not in {RUNS}/ of the current folder: call confirm where the sweep was called.")
    folder = RUNS / given.resolve().relative_to(root)
    if folder.name.startswith(CONFIRM_FOLDER) and (folder / "study.yaml").is_file():
        raise UserError(f"{folder} is a confirmation itself; {folder.parent} can be confirmed once more, with --again.")
    return folder


def _record(folder: Path) -> dict[str, Any]:
    read_declared(folder)  # tells what is wrong with it
    record: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return record


def _finished(folder: Path, record: dict[str, Any]) -> Summary:
    """The study's summary, if nothing is left to do in it."""
    summary, _ = summarise_folder(folder)
    known = read_trials(folder, summary.study.storage)
    if known.unreadable:
        raise UserError(
            f"whether {folder} is finished cannot be told, since its trials cannot be read ({known.unreadable}). "
            "A database's password belongs in ~/.pgpass or PGPASSWORD."
        )
    left = max(
        sum(not trial.state.is_finished() for trial in known.trials),
        (record["study"].get("trials") or 0) - spent(known.trials),
    )
    if left > 0 or not summary.complete:
        raise UserError(
            f"{folder} is not finished{f': {left} trials are left' if left > 0 else ''}. Its own command finishes it: "
            f"{record.get('command')}"
        )
    if summary.baseline is None and summary.study.baseline is not None:
        raise UserError(
            f"{folder}: the baseline {summary.study.baseline} has no result for each seed, so there is nothing to "
            "compare with. `losslab sweep` says why; give the study another baseline."
        )
    return summary


def _chosen(summary: Summary, top: int | None) -> tuple[list[SettingResults], SettingResults]:
    """The settings to confirm, in the study's order, and the one to compare with.

    That is the declared baseline, which does not count as one of the best; a search has none, and its best one stands
    in for it.
    """
    ranked = sorted(summary.complete, key=lambda s: -summary.study.sign * s.mean_sd(summary.study.monitor)[0])
    baseline = summary.baseline or ranked[0]
    kept = [baseline, *[setting for setting in ranked if setting is not baseline][:top]]
    if len(kept) == 1:
        raise UserError(f"{summary.name} has one setting only: there is nothing to compare it with.")
    return [setting for setting in summary.complete if setting in kept], baseline


def _write_files(
    folder: Path,
    record: dict[str, Any],
    summary: Summary,
    chosen: list[SettingResults],
    baseline: SettingResults,
    seeds: int,
    again: bool,
) -> Path:
    """Write the confirmation's study and experiment files, or find the folder that has them already.

    Raises:
        UserError: the study was confirmed with something else, and `again` does not ask for more.
    """
    arms = {setting.label: record["study"]["arms"][setting.arm] | setting.varied for setting in chosen}
    # What was refused before it began has no record.
    earlier = [known for known in confirmation_folders(folder) if (known / "study.json").is_file()]
    used = [*summary.study.seeds, *(seed for known in earlier for seed in read_yaml(known / "study.yaml")["seeds"])]
    if earlier:
        last = read_yaml(earlier[-1] / "study.yaml")
        if last["arms"] == arms and len(last["seeds"]) == seeds and not (again and is_over(earlier[-1])):
            return earlier[-1]
        if not again:
            raise UserError(
                f"the confirmation of {folder} has begun already, with {len(last['seeds'])} seeds of "
                f"{', '.join(last['arms'])}. The same --top and --seeds go on or show it. --again confirms anew, and "
                "the page tells of it."
            )
    confirm = folder / (CONFIRM_FOLDER if not earlier else f"{CONFIRM_FOLDER}-{len(earlier) + 1}")
    first = max(used) + 1
    content: Config = {key: record["study"][key] for key in KEPT_KEYS if key in record["study"]}
    content |= {
        "experiment": "experiment.yaml",
        "arms": arms,
        "seeds": list(range(first, first + seeds)),
        "baseline": {"arm": baseline.label},
        "keep": "all",
        "stage": "confirm",
    }
    confirm.mkdir(parents=True, exist_ok=True)
    write_whole(confirm / "experiment.yaml", yaml.safe_dump(record["experiment"], sort_keys=False))
    write_whole(confirm / "study.yaml", yaml.safe_dump(content, sort_keys=False))
    return confirm


def unread_hashes(confirm: Path, configs: dict[str, Config], seeds: list[int]) -> set[str]:
    """The configurations, seed included, that a confirmation has still to read.

    Args:
        confirm: runs/<study>/confirm.
        configs: each setting's resolved configuration, by the setting's hash.
        seeds: the confirmation's.
    """
    return {
        config_hash({**config, SEED: seed})
        for setting_hash, config in configs.items()
        for seed in seeds
        if read_result(result_path(confirm / TEST_FOLDER, setting_hash, seed)) is None
    }


def read_test_images(confirm: Path, command_line: CommandLine, configs: dict[str, Config]) -> None:
    """Evaluate every run of a confirmation that has not been, and keep what came out.

    A read is noted before it happens. Killed between a read and its result, the confirmation asks for `--again`.

    Args:
        confirm: runs/<study>/confirm, all of whose runs have ended.
        command_line: parses and builds.
        configs: each setting's resolved configuration, by the setting's hash.
    """
    with FileLock(confirm / "test.lock"):  # another call of the same command waits, and finds everything read
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
            _, metrics = evaluate_run("test", FinishedRun(run, run.checkpoint("last"), command_line))
            told = {"tested_at": utc_now(), "earlier_reads": len(before)}
            write_result(path, {**result, "metrics": result["metrics"] | metrics, **told})
