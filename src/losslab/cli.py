"""The command line: names the commands, imports a room only when one of its commands is called."""

import sys
from collections.abc import Sequence

from losslab.errors import DISK_FAULTS, TrainingError, UserError, did_you_mean

COMMANDS = {
    "fit": "train an experiment, or continue one",
    "validate": "evaluate a run on the validation split",
    "test": "evaluate a run on the test split; every call is noted in runs/test_reads.jsonl",
    "predict": "write a run's logits for the validation split, or what it sees on --images",
    "export": "write a run's network as ONNX, checked against PyTorch",
    "summary": "print a network's layers, shapes and parameter counts",
    "sweep": "run or continue a study: one training for each setting and seed",
    "confirm": "train a study's best settings on fresh seeds, and read the test images once",
    "report": "write a study's page, report.html, and report.md",
    "plot-loss": "draw a loss and its gradient against the probability of the label",
    "runs": "list the runs with their headline numbers",
}

MODULES = {
    "fit": "losslab.run.fit",
    "predict": "losslab.run.predict",
    "export": "losslab.run.export",
    "summary": "losslab.run.summary",
    "sweep": "losslab.sweep.command",
    "confirm": "losslab.sweep.confirm",
    "report": "losslab.report.command",
    "plot-loss": "losslab.report.command",
    "runs": "losslab.run.runs",
}
"""Where each command's `<name>_command` is; "validate" and "test" are one function's."""

HELP = """\
losslab: what does the loss function do to each class's precision and recall?

usage: losslab COMMAND [arguments]

{commands}

losslab COMMAND --help tells what a command takes. Begin with:

  losslab fit --config experiments/cnn.yaml
  losslab test --run runs/cnn
  losslab sweep --config sweeps/gamma.yaml
  losslab confirm runs/gamma
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `losslab`; None takes the process's own.

    Returns:
        The exit status: 0; 1 if the training failed, or a disk is full or read-only; 2 for a mistake in the arguments,
        the files or the folders, told in one line; 130 after Ctrl-C and 143 after SIGTERM, all that was finished kept.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())))
        return 0
    if command == "--version":
        from losslab import __version__

        print(f"losslab {__version__}")
        return 0
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS, f". The commands are {', '.join(COMMANDS)}.")
        print(f"losslab: error: unknown command {command!r}{hint}", file=sys.stderr)
        return 2
    return _run(command, rest)


def _run(command: str, arguments: list[str]) -> int:
    try:
        _call(command, arguments)
    except UserError as error:
        print(f"losslab {command}: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"losslab {command}: error: {error.strerror}{where}; what was finished is on disk", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"losslab {command}: stopped", file=sys.stderr)
        return 130
    except BaseException as error:
        exit_code = getattr(error, "exit_code", None)  # of run.interruption.Interrupted
        if exit_code is None:
            raise
        again = "the same command" if command in ("sweep", "confirm") else "the same command with --ckpt_path last"
        print(f"losslab {command}: stopped; {again} goes on from here", file=sys.stderr)
        return int(exit_code)
    return 0


def _call(command: str, arguments: list[str]) -> None:
    import importlib

    if command in ("validate", "test"):
        from losslab.run.evaluate import evaluate_command

        evaluate_command(command, arguments)  # type: ignore[arg-type]
        return
    module = importlib.import_module(MODULES[command])
    getattr(module, f"{command.replace('-', '_')}_command")(arguments)
