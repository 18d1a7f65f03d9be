"""The end of a confirmation: the test images are read once for each of its runs."""

from pathlib import Path

from filelock import FileLock

from losslab.report.summary import TEST
from losslab.run.command_line import CommandLine
from losslab.run.config import SEED, Config, config_hash
from losslab.run.evaluate import Trained, evaluate_trained
from losslab.run.folder import RunFolder
from losslab.run.provenance import earlier_reads, utc_now
from losslab.study.results import read_result, read_results, result_path, write_result


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
        if read_result(result_path(confirm / TEST, setting_hash, seed)) is None
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
            if read_result(path := result_path(confirm / TEST, result["setting_hash"], result["seed"])) is None
        ]
        if unread:
            print(f"Reading the test images for {len(unread)} runs.")
        for result, path in unread:
            run = RunFolder(confirm / result["run"])
            config = {**configs[result["setting_hash"]], SEED: result["seed"]}
            command_line.parse_config(config)
            before = earlier_reads({config_hash(config)}, result["data_name"])
            _, metrics = evaluate_trained("test", Trained(run, run.checkpoint("last"), command_line))
            told = {"tested_at": utc_now(), "earlier_reads": len(before)}
            write_result(path, {**result, "metrics": result["metrics"] | metrics, **told})
