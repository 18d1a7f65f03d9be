"""`losslab summary`: a network's layers, with output shapes and formulas of the parameter counts."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losslab.errors import UserError
from losslab.run.command_line import CommandLine
from losslab.run.config import merge_files
from losslab.run.terminal import console, dense_table

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Shape = tuple[int, ...]


class LayerRow(NamedTuple):
    """One layer. A tensor that layers share is counted in the first one's row only."""

    name: str
    """Path in the module tree; "" for the network itself."""
    kind: str
    """Name of the class."""
    shapes: list[Shape | None]
    """Output shape for one image, one entry per call; None for an output that is no tensor. []: never called."""
    formula: str
    """Number of parameters as a sum of products, such as "5·5·1·16"; "" for none."""
    parameters: int
    frozen: int
    """Parameters without gradient (`requires_grad` is False), included in `parameters`."""
    buffers: int
    """Values in buffers: state that no optimiser trains, such as batch norm's running mean."""


class LayerTable(NamedTuple):
    """The layers of a network, and their sums, which are the network's."""

    rows: list[LayerRow]
    trainable: int
    frozen: int
    buffers: int


def summary_command(tokens: list[str]) -> None:
    """Print the layers of a configured model. No data is read; without `--data`, images have MNIST's shape.

    Raises:
        UserError: a name or a value is invalid, or the model cannot take an image of this shape.
    """
    command_line = CommandLine(_with_data(tokens), "losslab summary")
    config = command_line.resolved()
    config["trainer"] = {"accelerator": "cpu"}  # nothing is trained: neither trackers nor the experiment's device
    command_line.parse_config(config)
    _, model, data = command_line.build()
    kind, shape = type(model).__name__, _product(data.image_shape)
    try:
        table = layer_table(model, model.example_input_array)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:  # raised by torch's layers for a wrong shape
        raise UserError(f"{kind} cannot take an image of {shape}: {' '.join(str(error).split())}") from error
    print_layer_table(table, f"{kind}: one image of {shape}, {data.num_classes} classes ({data.data_name})")


def layer_table(network: nn.Module, image: Tensor) -> LayerTable:
    """Pass one image through a network, in evaluation mode, and list the layers in the order of their calls.

    A layer is a module without submodules, or one that holds parameters or buffers itself. Layers that are never
    called come last. A submodule `loss` is not part of the network: only its modules with parameters are listed.

    Args:
        network: any module that takes `image`; not changed.
        image: (1, *image_shape) float.
    """
    shapes = _output_shapes(network, image)
    modules = dict(network.named_modules())
    counted: set[int] = set()
    rows = []
    for name in [*shapes, *(name for name in modules if name not in shapes)]:
        module = modules[name]
        parameters, buffers = list(module.parameters(recurse=False)), list(module.buffers(recurse=False))
        if name.split(".")[0] == "loss":
            if not parameters:
                continue
            buffers = []
        elif not parameters and not buffers and next(module.children(), None) is not None:
            continue
        new = [parameter for parameter in parameters if id(parameter) not in counted]
        new_buffers = [buffer for buffer in buffers if id(buffer) not in counted]
        counted.update(id(tensor) for tensor in (*new, *new_buffers))
        formula = "counted above" if parameters and not new else parameter_formula(module, new)
        sizes = _size(new), _size(p for p in new if not p.requires_grad), _size(new_buffers)
        rows.append(LayerRow(name, type(module).__name__, shapes.get(name, []), formula, *sizes))
    frozen = sum(row.frozen for row in rows)
    return LayerTable(rows, sum(row.parameters for row in rows) - frozen, frozen, sum(row.buffers for row in rows))


def parameter_formula(layer: nn.Module, parameters: Sequence[Tensor]) -> str:
    """Return the formula of a layer's parameter count.

    Args:
        layer: a linear layer, a convolution or batch norm has its textbook formula.
        parameters: the parameters to count. If the textbook formula does not give their number, and for any other
            layer, the formula is the sum of the products of their shapes.
    """
    text, value = "", 0
    if isinstance(layer, nn.Linear):
        inputs, outputs, bias = layer.in_features, layer.out_features, int(layer.bias is not None)
        text, value = f"({inputs} + 1)·{outputs}" if bias else f"{inputs}·{outputs}", (inputs + bias) * outputs
    elif isinstance(layer, CONVOLUTIONS):
        inputs, outputs, groups = layer.in_channels, layer.out_channels, layer.groups
        per_filter = f"({inputs}/{groups})" if groups > 1 else f"{inputs}"  # input channels of one filter
        text = "·".join([*map(str, layer.kernel_size), per_filter, f"{outputs}"])
        value = math.prod(layer.kernel_size) * (inputs // groups) * outputs
        if layer.bias is not None:
            text, value = f"{text} + {outputs}", value + outputs
    elif isinstance(layer, BATCH_NORMS):
        text, value = f"2·{layer.num_features}", 2 * layer.num_features
    if value == _size(parameters):
        return text
    return " + ".join("·".join(map(str, parameter.shape)) or "1" for parameter in parameters)


def print_layer_table(table: LayerTable, title: str) -> None:
    """Print a row for each layer, and the sums."""
    kinds = {kind.__name__ for kind in BATCH_NORMS}
    grid = dense_table("layer", "kind", "output", "parameters", "count", "buffers")
    grid.show_edge = False
    for column in grid.columns[:4]:  # the ResNet fits into 80 columns; a longer name is folded
        column.no_wrap, column.overflow = False, "fold"
    for column in grid.columns[4:]:
        column.justify = "right"
    for row in table.rows:
        numbers = (f"{row.parameters:,}", f"{row.buffers:,}" if row.buffers else "")
        grid.add_row(row.name or "(itself)", row.kind, _output(row), row.formula, *numbers)
    print(f"{title}\n")
    console().print(grid, soft_wrap=False)
    print(f"\nTrainable parameters: {table.trainable:,}")
    if table.frozen:
        print(f"Frozen parameters: {table.frozen:,}")
    if table.buffers:
        print(f"Buffers: {table.buffers:,} values, which no optimiser trains")
    if any(row.kind in kinds and row.parameters and row.buffers for row in table.rows):
        print("Batch norm has 2 parameters a channel; its running mean and variance, and its counter, are buffers.")


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _with_data(tokens: list[str]) -> list[str]:
    """Return the command line, with MNIST's data module if it names no data."""
    merged, _ = merge_files(tokens)
    config = json.loads(merged[1]) if merged[:1] == ["--config"] else {}
    given = "data" in config or any(token.partition("=")[0] in ("--data", "--data.class_path") for token in merged)
    return tokens if given else [*tokens, "--data", "MNISTDataModule"]


def _output_shapes(network: nn.Module, image: Tensor) -> dict[str, list[Shape | None]]:
    """Return the output shapes of each called module, by name, in the order in which the calls end."""
    shapes: dict[str, list[Shape | None]] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: shapes.setdefault(name, []).append(_shape_of_one_image(output))

    modes = [(module, module.training) for module in network.modules()]
    hooks = [module.register_forward_hook(recorder(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return shapes


def _shape_of_one_image(output: Any) -> Shape | None:
    """Return the shape without the batch dimension; with it where a layer has put patches of the image there."""
    if isinstance(output, tuple | list) and output:  # such as the output and the state of a recurrent layer
        output = output[0]
    if not isinstance(output, Tensor):
        return None
    return tuple(output.shape[1:] if output.shape[:1] == (1,) else output.shape)


def _output(row: LayerRow) -> str:
    if not row.shapes:
        return "not called"
    first = "no tensor" if row.shapes[0] is None else _product(row.shapes[0])
    return first if len(row.shapes) == 1 else f"{first}, first of {len(row.shapes)} calls"


def _product(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"
