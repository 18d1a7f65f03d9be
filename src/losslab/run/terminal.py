"""The terminal: text of the first process, tables."""

from rich import box
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """The terminal; a file or a pipe counts as 200 columns wide, since nobody wants it cut at 80.

    Brackets are printed as they are: a label may hold them.
    """
    terminal = Console(soft_wrap=True, markup=False)
    return terminal if terminal.is_terminal else Console(soft_wrap=True, width=200, markup=False)


def dense_table(*columns: str, title: str | None = None) -> Table:
    """A table whose numbers are not broken: seven columns of "99.12±0.08" fit into 80 characters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def say(text: str) -> None:
    """Print `text`, in the first process of a training only."""
    from lightning.pytorch.utilities import rank_zero_only  # imported here: `losslab runs` needs no Lightning

    rank_zero_only(print)(text)
