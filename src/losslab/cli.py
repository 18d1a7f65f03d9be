"""The command line: imports a command's module only when that command is called."""

import atexit
import gc
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from losslab.errors import DISK_FAULTS, TrainingError, UserError, did_you_mean

COMMANDS = {
    "fit": ("run.fit", "train an experiment, or continue a run"),
    "validate": ("run.evaluate", "evaluate a run on the validation split"),
    "test": ("run.evaluate", "evaluate a run on the test split; every call is noted in runs/test_reads.jsonl"),
    "predict": ("run.predict", "write a run's logits for the validation split, or its predictions for --images"),
    "export": ("run.export", "write a run's network as ONNX, checked against PyTorch"),
    "summary": ("run.summary", "print a network's layers, shapes and parameter counts"),
    "sweep": ("sweep.command", "run or continue a study: one training for each setting and seed"),
    "confirm": ("sweep.confirm", "train a study's best settings on fresh seeds, and read the test images once"),
    "report": ("report.command", "write a study's page, report.html, and report.md"),
    "plot-loss": ("report.command", "draw a loss and its gradient against the probability of the label"),
    "runs": ("run.runs", "list the runs with their headline numbers"),
}
"""The module with the function `<command>_command`, and the command's line in the help."""

PACKAGE = Path(__file__).parent
ROOMS = ("data", "losses", "metrics", "models", "run", "study", "report", "sweep")
"""Folders of losslab, each independent of those after it: users who need no studies may delete the last ones."""

EXAMPLES = (
    "fit --config experiments/cnn.yaml",
    "test --run runs/cnn",
    "sweep --config sweeps/gamma.yaml",
    "confirm runs/gamma",
)

HELP = """\
losslab: what does the loss function do to each class's precision and recall?

usage: losslab COMMAND [arguments]

{commands}

losslab COMMAND --help lists the arguments of a command. Begin with:

{examples}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `losslab`; by default those of the process.

    Returns:
        The exit status: 0; 1 if the training failed, or a disk is full or read-only; 2 for a mistake in the arguments,
        the files or the folders, reported in one line; 130 after Ctrl-C and 143 after SIGTERM. Finished work is kept.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    known = [name for name in COMMANDS if not _missing_room(name)]
    if command in ("-h", "--help", "help"):
        examples = "\n".join(f"  losslab {example}" for example in EXAMPLES if example.split()[0] in known)
        print(HELP.format(commands="\n".join(f"  {name:10}{COMMANDS[name][1]}" for name in known), examples=examples))
        return 0
    if command == "--version":
        from losslab import __version__

        print(f"losslab {__version__}")
        return 0
    if command not in COMMANDS:
        hint = did_you_mean(command, known, f". The commands are {', '.join(known)}.")
        print(f"losslab: error: unknown command {command!r}{hint}", file=sys.stderr)
        return 2
    return _run(command, rest)


def _missing_room(command: str) -> str | None:
    """Return the first room that the command needs and that is not installed."""
    room = COMMANDS[command][0].split(".")[0]
    needed = ROOMS[: ROOMS.index(room) + 1]
    return next((name for name in needed if not (PACKAGE / name / "__init__.py").is_file()), None)


def _import(name: str) -> ModuleType:
    """Import a module, and leave the million objects that stay to no garbage collection, which takes half a second."""
    if name not in sys.modules:
        gc.disable()
        try:
            importlib.import_module(name)
            gc.freeze()
        finally:
            gc.enable()
        atexit.register(gc.unfreeze)  # else libraries in C++ report their objects as leaks
    return sys.modules[name]


def _run(command: str, arguments: list[str]) -> int:
    try:
        if room := _missing_room(command):
            raise UserError(
                f"this command needs {PACKAGE / room}, which is missing: put it back, or reinstall losslab."
            )
        module = _import(f"losslab.{COMMANDS[command][0]}")
        getattr(module, f"{command.replace('-', '_')}_command")(arguments)
    except UserError as error:
        print(f"losslab {command}: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"losslab {command}: error: {error.strerror}{where}; finished work is on disk", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"losslab {command}: stopped", file=sys.stderr)
        return 130
    except BaseException as error:
        exit_code = getattr(error, "exit_code", None)  # of run.callbacks.Interrupted, whose import takes seconds
        if exit_code is None:
            raise
        again = "the same command" if command in ("sweep", "confirm") else "the same command with --ckpt_path last"
        print(f"losslab {command}: stopped; {again} goes on from here", file=sys.stderr)
        return int(exit_code)
    return 0
