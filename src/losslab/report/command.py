"""`losslab report`: a study's page, or two studies or runs side by side. `losslab plot-loss`: the page of a loss."""

import importlib
import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import losslab.losses
from losslab.errors import UserError, did_you_mean, expand_path, notice
from losslab.report.compare import comparison_content, read_compared_item
from losslab.report.curves import loss_curves
from losslab.report.page import page_content, render
from losslab.report.records import read_config
from losslab.report.summary import Confirmation, Summary, counting_confirmation, read_confirmations, summarise_folder
from losslab.report.tables import markdown
from losslab.report.wandb_report import save_wandb_report
from losslab.run import (
    RUNS,
    Config,
    OptionParser,
    as_value,
    dump_yaml,
    find_own_modules,
    set_value,
    write_whole,
    writing,
)
from losslab.study import SettingResults

PLOT_LOSS_HELP = """\
usage: losslab plot-loss LOSS [--ARGUMENT VALUE ...] [--out FILE]

Draw a loss of one image, and its gradient, against the probability p_t of its label. The page needs no network.
One argument may have several values, which gives one curve each. `losslab fit --model.loss.help LOSS` lists the
arguments. The page is written to runs/plot-loss/LOSS.html unless --out names another file.

  losslab plot-loss FocalLoss --gamma 0 1 2 5
  losslab plot-loss my_loss.MeanAbsoluteError --out mae.html
"""


def report_command(tokens: list[str]) -> None:
    """Write report.html and report.md of a study, or the page of a comparison.

    Raises:
        UserError: the study or a side of the comparison cannot be read, or a file cannot be written.
    """
    parser = OptionParser(
        prog="losslab report",
        description="Write a study's report.html, one file that needs no internet connection, and report.md.",
    )
    parser.add_argument("study", type=Path, nargs="?", help="the study's folder, runs/gamma")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="two studies or two runs, side by side on one page"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="also save a W&B report in PROJECT or ENTITY/PROJECT")
    parser.add_argument("--out", type=Path, help="file of the comparison; default runs/compare/A-and-B.html")
    options = parser.parse_args(tokens)
    if (options.study is None) == (options.compare is None):
        raise UserError("give either a study's folder, such as runs/gamma, or --compare with two folders.")
    if options.compare is not None:
        a, b = options.compare
        page = render("comparison", page=comparison_content(read_compared_item(a), read_compared_item(b)))
        _write_page(options.out or RUNS / "compare" / f"{a.name}-and-{b.name}.html", page)
        return
    write_report(options.study)
    if options.wandb is not None:
        print(save_wandb_report(options.study, *summarise_folder(options.study), options.wandb))


def write_report(folder: Path, confirmations: Sequence[Confirmation] | None = None) -> None:
    """Write report.html and report.md into runs/<study>, and best.yaml if a confirmation chose its setting.

    Args:
        folder: runs/<study>.
        confirmations: the study's, if they are read already; None reads them.

    Raises:
        UserError: the folder holds no study, the study has no result, or the folder cannot be written.
    """
    summary, results = summarise_folder(folder)
    confirmations = read_confirmations(folder) if confirmations is None else confirmations
    with writing(folder):
        page = page_content(folder, summary, results, confirmations)
        write_whole(folder / "report.html", render("page", page=page))
        write_whole(folder / "report.md", markdown(summary, confirmations))
        if (counting := counting_confirmation(confirmations)) is not None:
            _write_confirmed_best(folder, summary, counting)
    print(f"{folder}/report.html, {folder}/report.md")


def write_best(folder: Path, summary: Summary, config: Config) -> None:
    """Write a search's choice to best.yaml, unless the choice of a confirmation counts, which `write_report` writes.

    Args:
        folder: runs/<study>.
        summary: of the search.
        config: the resolved configuration of the setting that it chooses.
    """
    if counting_confirmation(read_confirmations(folder)) is not None:
        return
    chosen = summary.chosen
    lines = [f"{chosen.label}, chosen by the study {folder.name} on validation.", " ".join(summary.answer)]
    if chosen is not summary.best:
        lines.append(f"So this is the baseline, {chosen.label}, and not {summary.best.label}.")
    _write_best_file(folder, chosen, lines, config)


def _write_confirmed_best(folder: Path, summary: Summary, confirmation: Confirmation) -> None:
    """Write the setting that the confirmation which counts has chosen to best.yaml, as it was trained there."""
    confirmed, chosen = confirmation.summary, confirmation.summary.chosen
    seeds, kind = confirmed.study.seeds, "search's own" if confirmed.study.seeds == summary.study.seeds else "fresh"
    lines = [
        f"{chosen.label}, chosen by the confirmation {confirmed.name} on the {kind} seeds {min(seeds)} to {max(seeds)} "
        "and the test images.",
        " ".join([*confirmed.answer, confirmation.choice_text, confirmation.status_text]),
    ]
    name = "label" if chosen.choices else "setting_hash"  # the arms of a confirmation are named after settings
    if getattr(summary.chosen, name) not in {getattr(setting, name) for setting in confirmed.tried}:
        lines.append(f"The search now chooses {summary.chosen.label}, which was not confirmed.")
        notice(f"{folder}/best.yaml: {lines[-1]} `losslab confirm --again` confirms it.")
    if config := read_config(confirmation.folder, chosen):
        for path, value in chosen.median_choices.items():
            set_value(config, path, value)
        _write_best_file(folder, chosen, lines, config)
    else:
        notice(f"{folder}/best.yaml is not written: the runs of {confirmation.folder} cannot be read.")


def _write_best_file(folder: Path, chosen: SettingResults, comments: Sequence[str], config: Config) -> None:
    """Write a setting's whole configuration, after comments on how it and its values were chosen; print its label."""
    medians = [
        f"{path} is {chosen.median_choices[path]:g}, the median of what its {len(values)} seeds chose, each on its own "
        f"validation images ({min(values):g} to {max(values):g}). The numbers are those of these choices, not of the "
        "median."
        for path, values in chosen.choices.items()
    ]
    lines = [*comments, *medians, f"Train it: losslab fit --config {shlex.quote(f'{folder}/best.yaml')}"]
    header = "".join(f"# {' '.join(line.split())}\n" for line in lines)  # a name may hold a line break
    write_whole(folder / "best.yaml", header + dump_yaml(config))
    print(f"{folder}/best.yaml: {chosen.label}")


def _write_page(path: Path, page: str) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    print(path)


def plot_loss_command(tokens: list[str]) -> None:
    """Write the page of a loss.

    Raises:
        UserError: the loss or an argument is unknown, or the loss cannot be drawn.
    """
    if not tokens or tokens[0] in ("-h", "--help"):
        print(PLOT_LOSS_HELP)
        return
    name, *rest = tokens
    arguments = _parse_arguments(rest)
    out = arguments.pop("out", None)
    if out is not None and len(out) != 1:
        raise UserError(f"--out takes one file, got {len(out)}.")
    loss_class = _loss_class(name)
    several = [argument for argument, values in arguments.items() if len(values) > 1]
    if len(several) > 1:
        raise UserError(f"one argument may have several values; these have: {', '.join(several)}.")
    varied = several[0] if several else next(iter(arguments), None)
    variants = [{}] if varied is None else [{varied: value} for value in arguments.pop(varied)]
    fixed = {argument: values[0] for argument, values in arguments.items()}
    losses = [_build_loss(loss_class, fixed | variant) for variant in variants]
    labels = [loss_class.__name__ if varied is None else f"{varied} = {variant[varied]}" for variant in variants]
    title = loss_class.__name__ + "".join(f", {key} = {value}" for key, value in fixed.items())
    try:
        figure = loss_curves(title, labels, losses)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{name} cannot be drawn for a single image: {error}") from error
    path = expand_path(out[0], "--out") if out else RUNS / "plot-loss" / f"{loss_class.__name__}.html"
    _write_page(path, render("figure", figure=figure, command=f"losslab plot-loss {shlex.join(tokens)}"))


def _parse_arguments(tokens: list[str]) -> dict[str, list[Any]]:
    """Return {"gamma": [0, 1], "alpha": [2]} for --gamma 0 1 --alpha=2."""
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
    return {name: values if name == "out" else list(map(as_value, values)) for name, values in found.items()}


def _loss_class(name: str) -> type:
    module, _, word = name.rpartition(".")
    find_own_modules()
    try:
        found = getattr(importlib.import_module(module) if module else losslab.losses, word)
    except ModuleNotFoundError:
        raise UserError(f"there is no module {module!r}; modules in the current folder are found, too.") from None
    except AttributeError:
        hint = did_you_mean(word, losslab.losses.__all__, ".")
        raise UserError(f"there is no loss {name!r}{hint}") from None
    if not inspect.isclass(found):
        raise UserError(f"{name} is not a class; give a loss, such as FocalLoss or my_loss.MyLoss.")
    return found


def _build_loss(loss_class: type, arguments: dict[str, Any]) -> Any:
    known = losslab.losses.constructor_arguments(loss_class)
    for argument in arguments:
        if argument not in known:
            hint = did_you_mean(argument, known, f"; it has {', '.join(known)}.")
            raise UserError(f"{loss_class.__name__} has no argument {argument!r}{hint}")
    try:
        return loss_class(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
