"""`losslab report`: a study as one page and as Markdown; or two of them side by side."""

import importlib
import inspect
import shlex
from pathlib import Path
from typing import Any

import yaml

import losslab.losses
from losslab.errors import UserError, did_you_mean
from losslab.report.curves import loss_curves
from losslab.report.page import render_figure
from losslab.report.summary import summarise_folder
from losslab.run import RUNS, OptionParser, find_own_modules, write_whole, writing


def report_command(tokens: list[str]) -> None:
    """Write report.html and report.md of a study, from what lies in its folder."""
    parser = OptionParser(
        prog="losslab report",
        description="Write a study's report.html, one file that needs no network, and report.md.",
    )
    parser.add_argument("study", type=Path, nargs="?", help="the study's folder, runs/gamma")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="instead: two studies or two runs side by side"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="also save it as a W&B report: PROJECT or ENTITY/PROJECT")
    parser.add_argument("--out", type=Path, help="the comparison's file; by default runs/compare/A-and-B.html")
    options = parser.parse_args(tokens)
    if (options.study is None) == (options.compare is None):
        raise UserError("give either a study's folder, such as runs/gamma, or --compare with two of them.")
    if options.compare is None:
        write_report(options.study)
        if options.wandb is not None:
            from losslab.report.wandb_report import save_wandb_report

            print(save_wandb_report(options.study, *summarise_folder(options.study), options.wandb))
    else:
        write_comparison(options.compare[0], options.compare[1], options.out)


def write_report(folder: Path) -> None:
    """Write report.html and report.md into runs/<study>.

    Raises:
        UserError: there is no study, it has no result, or its folder cannot be written.
    """
    from losslab.report.page import page_content, render
    from losslab.report.summary import read_confirmations
    from losslab.report.tables import markdown

    summary, results = summarise_folder(folder)
    with writing(folder):
        write_whole(folder / "report.html", render(page_content(folder, summary, results)))
        write_whole(folder / "report.md", markdown(summary, read_confirmations(folder)))
    print(f"{folder}/report.html, {folder}/report.md")


def write_comparison(a: Path, b: Path, out: Path | None) -> None:
    """Write the page of two studies or two runs side by side.

    Raises:
        UserError: they cannot be compared, or the page cannot be written.
    """
    from losslab.report.compare import comparison_content, read_compared_item
    from losslab.report.page import render_comparison

    out = out or RUNS / "compare" / f"{a.name}-and-{b.name}.html"
    page = render_comparison(comparison_content(read_compared_item(a), read_compared_item(b)))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page)
    print(out)


HELP = """\
usage: losslab plot-loss LOSS [--ARGUMENT VALUE ...] [--out FILE]

Draw a loss of one image, and its gradient, against the probability p_t of its label, as one page that needs no network.
One argument may have several values, a curve each; `losslab fit --model.loss.help LOSS` lists the arguments.

  losslab plot-loss FocalLoss --gamma 0 1 2 5
  losslab plot-loss my_loss.MeanAbsoluteError --out mae.html
"""


def plot_loss_command(tokens: list[str]) -> None:
    """Write the page of a loss.

    Raises:
        UserError: there is no such loss or argument, or the loss cannot be drawn.
    """
    if not tokens or tokens[0] in ("-h", "--help"):
        print(HELP)
        return
    name, *rest = tokens
    arguments = _arguments(rest)
    out = arguments.pop("out", None)
    if out is not None and len(out) != 1:
        raise UserError(f"--out takes one file, got {len(out)}.")
    loss_class = _loss_class(name)
    several = [argument for argument, values in arguments.items() if len(values) > 1]
    if len(several) > 1:
        raise UserError(f"one argument may have several values; these have: {', '.join(several)}.")
    varied = several[0] if several else next(iter(arguments), None)
    fixed = {argument: values[0] for argument, values in arguments.items() if argument != varied}
    values = arguments[varied] if varied is not None else [None]
    losses = [_build(loss_class, fixed if varied is None else fixed | {varied: value}) for value in values]
    labels = [loss_class.__name__ if varied is None else f"{varied} = {value}" for value in values]
    title = loss_class.__name__ + "".join(f", {key} = {value}" for key, value in fixed.items())
    try:
        figure = loss_curves(title, labels, losses)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{name} cannot be drawn for a single image: {error}") from error
    path = Path(out[0]) if out else RUNS / "plot-loss" / f"{loss_class.__name__}.html"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, render_figure(figure, f"losslab plot-loss {shlex.join(tokens)}"))
    print(path)


def _arguments(tokens: list[str]) -> dict[str, list[Any]]:
    """--gamma 0 1 --alpha=2 as {"gamma": [0, 1], "alpha": [2]}."""
    found: dict[str, list[Any]] = {}
    name = ""
    for token in tokens:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            found[name] = [value] if equals else []
        elif not name:
            raise UserError(f"unexpected {token!r}: arguments of the loss are given as --gamma 0 1 2.")
        else:
            found[name].append(token)
    empty = next((name for name, values in found.items() if not values), None)
    if empty is not None:
        raise UserError(f"--{empty} needs a value.")
    return {name: values if name == "out" else [_value(text) for text in values] for name, values in found.items()}


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _loss_class(name: str) -> type:
    module, _, word = name.rpartition(".")
    find_own_modules()
    try:
        found = getattr(importlib.import_module(module) if module else losslab.losses, word)
    except ModuleNotFoundError:
        raise UserError(f"there is no module {module!r}; modules are looked for in this folder, too.") from None
    except AttributeError:
        hint = did_you_mean(word, losslab.losses.__all__, ".")
        raise UserError(f"there is no loss {name!r}{hint}") from None
    if not inspect.isclass(found):
        raise UserError(f"{name} is no class of losses.")
    return found


def _build(loss_class: type, arguments: dict[str, Any]) -> Any:
    known = inspect.signature(loss_class).parameters
    for argument in arguments:
        if argument not in known:
            hint = did_you_mean(argument, known, f"; it has {', '.join(known)}.")
            raise UserError(f"{loss_class.__name__} has no argument {argument!r}{hint}")
    try:
        return loss_class(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
