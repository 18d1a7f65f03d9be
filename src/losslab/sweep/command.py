"""`losslab sweep`: check everything, say what it will take, run, and show what came out."""

import os
import shlex
from pathlib import Path

from losslab.errors import UserError
from losslab.report.command import write_report
from losslab.report.summary import summarise_folder
from losslab.report.tables import show_summary
from losslab.run.command_line import CommandLine, OptionParser
from losslab.run.config import read_yaml
from losslab.run.folder import RUNS
from losslab.study.study_file import read_study
from losslab.sweep.best_file import write_best
from losslab.sweep.display import Display
from losslab.sweep.run_study import run_study
from losslab.sweep.storage import shown
from losslab.sweep.study import Study
from losslab.sweep.workers import PARENT, STORAGE, parent_is_gone


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
