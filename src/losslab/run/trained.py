"""A trained run, named on a command line: its folder, its checkpoint, and its configuration, which all agree."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from losslab.errors import UserError
from losslab.run.checkpoint_files import require_same_config
from losslab.run.command_line import CommandLine, option_value
from losslab.run.config import differences
from losslab.run.first_process import say
from losslab.run.run_folder import RunFolder, find_run

Options = Sequence[tuple[str, str]]
"""Options of a command, as (name, help)."""

OPTIONS = (
    ("run", "A run's folder, or runs/NAME for the newest finished run there."),
    ("ckpt_path", "'last' (the default), 'best', or a checkpoint in a run's folder."),
)


class Trained(NamedTuple):
    """A run, one of its checkpoints, and the command line that builds what was trained."""

    folder: RunFolder
    checkpoint: Path
    command_line: CommandLine

    def output_folder(self, command: str) -> Path:
        """RUN/command, or RUN/command-best."""
        return self.folder.path / (command if self.checkpoint.stem == "last" else f"{command}-{self.checkpoint.stem}")


def find_trained(command: str, tokens: Sequence[str], options: Options = ()) -> Trained:
    """Find the run, and see that nobody asks for what it is not.

    Args:
        command: such as "test".
        tokens: the command line: `--run` or `--ckpt_path`, and changes that do not touch what was trained, such as
            `--data.root` or `--trainer.accelerator`.
        options: further options, for the help.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint cannot be read, or the command line, the run's
            config.yaml and the checkpoint differ.
    """
    prog, options = f"losslab {command}", (*OPTIONS, *options)
    if any(token in ("-h", "--help") for token in tokens):
        CommandLine(tokens, prog, options)  # prints the help and leaves
    folder, checkpoint = _run_and_checkpoint(command, tokens)
    command_line = CommandLine(["--config", str(folder.config_file), *tokens], prog, options)
    config = command_line.resolved()
    changed = [line for line in differences(folder.config(), config) if not line.startswith("trainer.")]
    if changed:
        raise UserError(
            f"{folder.path} was trained with another configuration: {'; '.join(changed)}. Leave these out, or fit anew."
        )
    require_same_config(checkpoint, config)
    return Trained(folder, checkpoint, command_line)


def _run_and_checkpoint(command: str, tokens: Sequence[str]) -> tuple[RunFolder, Path]:
    run, checkpoint = option_value(tokens, "run"), option_value(tokens, "ckpt_path")
    if checkpoint in (None, "last", "best"):
        if run is None:
            raise UserError(f"losslab {command} needs --run: a run's folder, or runs/NAME for its newest finished run.")
        folder = find_run(run, finished=True)
        say(f"Run: {folder.path}")
        return folder, folder.checkpoint(checkpoint or "last")
    path = Path(str(checkpoint))
    folder = RunFolder(path.parent.parent)
    if not path.is_file() or not folder.config_file.is_file():
        raise UserError(f"ckpt_path must be 'last', 'best' or a checkpoint in a run's folder, got {str(path)!r}.")
    if run is not None and find_run(run, finished=False).path.resolve() != folder.path.resolve():
        raise UserError(f"--run {run} and --ckpt_path {path} are different runs: give one of them.")
    return folder, path
