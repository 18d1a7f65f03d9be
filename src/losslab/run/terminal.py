"""The terminal: command-line options, tables, and text of the first process."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from losslab.errors import UserError, expand_path


class OptionParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of exiting, and accepts no abbreviated options.

    In an option of type Path, `~` and $VARIABLES are replaced.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _path(text: str) -> Path:
    try:
        return expand_path(text, "the path")
    except UserError as error:  # a ValueError, whose message argparse would not show
        raise argparse.ArgumentTypeError(str(error)) from None


def console() -> Console:
    """Return a console that prints labels with brackets as they are; a file or a pipe counts as 200 columns wide."""
    terminal = Console(soft_wrap=True, markup=False)
    return terminal if terminal.is_terminal else Console(soft_wrap=True, width=200, markup=False)


def dense_table(*columns: str, title: str | None = None) -> Table:
    """Return a table that does not wrap its cells: seven columns of "99.12±0.08" fit into 80 characters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def say(text: str) -> None:
    """Print `text` once, in the first of a training's processes."""
    from lightning.pytorch.utilities import rank_zero_only  # imported here: `losslab runs` needs no Lightning

    rank_zero_only(print)(text)
