"""`losslab summary`: a network's layers, their output shapes and the formulas of their parameter counts."""

import json

from rich import box
from rich.console import Console
from rich.table import Table

from losslab.errors import UserError
from losslab.models.layer_table import BATCH_NORMS, LayerRow, LayerTable, layer_table
from losslab.run.command_line import CommandLine
from losslab.run.experiment_file import merge_files


def summary_command(tokens: list[str]) -> None:
    """Print the table of a configured model. No data is read; without `--data` the images are MNIST's.

    Raises:
        UserError: a name or a value does not fit, or the model cannot take such an image.
    """
    command_line = CommandLine(_with_data(tokens), "losslab summary")
    config = command_line.resolved()
    config["trainer"] = {"accelerator": "cpu"}  # nothing is trained: no tracker, and no device that is not here
    command_line.parse_config(config)
    _, model, data = command_line.build()
    kind, shape = type(model).__name__, _product(data.image_shape)
    try:
        table = layer_table(model, model.example_input_array)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:  # how torch's layers refuse a shape
        raise UserError(f"{kind} cannot take an image of {shape}: {' '.join(str(error).split())}") from error
    print_layer_table(table, f"{kind}: one image of {shape}, {data.num_classes} classes ({data.data_name})")


def print_layer_table(table: LayerTable, title: str) -> None:
    """Print a row for each layer, and what they sum up to."""
    kinds = {kind.__name__ for kind in BATCH_NORMS}
    terminal = Console()
    # A file or a pipe counts as 200 columns wide.
    console = terminal if terminal.is_terminal else Console(width=200)
    # As dense as this, the ResNet fits into 80 columns; where a name does not, it goes on in the next line.
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for column in ("layer", "kind", "output", "parameters"):
        grid.add_column(column, overflow="fold")
    for column in ("count", "buffers"):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in table.rows:
        numbers = (f"{row.parameters:,}", f"{row.buffers:,}" if row.buffers else "")
        grid.add_row(row.name or "(itself)", row.kind, _output(row), row.formula, *numbers)
    print(f"{title}\n")
    console.print(grid)
    print(f"\nTrainable parameters: {table.trainable:,}")
    if table.frozen:
        print(f"Frozen parameters: {table.frozen:,}")
    if table.buffers:
        print(f"Buffers: {table.buffers:,} values, which no optimiser trains")
    if any(row.kind in kinds and row.parameters and row.buffers for row in table.rows):
        print("Batch norm has 2 parameters a channel; its running mean and variance, and its counter, are buffers.")


def _with_data(tokens: list[str]) -> list[str]:
    """The command line, with MNIST's data module if it names no data."""
    merged, _ = merge_files(tokens)
    config = json.loads(merged[1]) if merged[:1] == ["--config"] else {}
    given = "data" in config or any(token.partition("=")[0] in ("--data", "--data.class_path") for token in merged)
    return tokens if given else [*tokens, "--data", "MNISTDataModule"]


def _output(row: LayerRow) -> str:
    if not row.shapes:
        return "not called"
    first = "no tensor" if row.shapes[0] is None else _product(row.shapes[0])
    return first if len(row.shapes) == 1 else f"{first}, first of {len(row.shapes)} calls"


def _product(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"
