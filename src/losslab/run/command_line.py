"""LightningCLI as losslab uses it: it parses and builds; what is done with the parts is written in run/ and sweep/."""

import argparse
import copy
import functools
import importlib
import inspect
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jsonargparse import Namespace
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import losslab.losses  # noqa: F401  classes are known by their short names once they are imported
from losslab.data import ImageDataModule
from losslab.errors import UserError, did_you_mean
from losslab.losses import ClassWeighting, Loss
from losslab.models import Classifier
from losslab.run.callbacks import CheckpointFiles
from losslab.run.config import Config, class_name, merge_files
from losslab.run.tracking import GuardedLogger

_log = logging.getLogger("losslab")

TRAINER_DEFAULTS = {
    "devices": 1,
    "max_epochs": 3,
    "logger": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}

PARSED_KEPT = 256
"""Configurations remembered once they are parsed: a study comes back to each, and parsing takes a tenth of a second."""

DESCRIPTION = """\
An experiment is a model, the data and a Trainer. Begin with a file and change single values:

  losslab fit --config experiments/cnn.yaml --model.loss FocalLoss --model.loss.gamma 2

A class is given by its short name, or as my_module.MyClass if it is one's own; what it takes:

  losslab fit --model.help CNN        losslab fit --data.help MNISTDataModule
"""


class Parts(NamedTuple):
    """What a configuration builds."""

    trainer: Trainer
    model: LightningModule
    data: ImageDataModule


class CommandLine(LightningCLI):
    """Parses an experiment, and builds its parts when asked to.

    Args:
        tokens: the command line after the command's name. `--config FILE`s are laid over each other first.
        prog: how the command is called, for the help.
        options: further options, as (name, help); each takes one value and is found in `config` under its name.

    Raises:
        UserError: a name or a value that does not fit, in one line with the nearest valid name. No data is read.
    """

    def __init__(self, tokens: Sequence[str], prog: str, options: Sequence[tuple[str, str]] = ()) -> None:
        self._options = options
        self._parsed = functools.lru_cache(PARSED_KEPT)(self._parse_text)
        find_own_modules()
        _silence_upstream()
        super().__init__(
            Classifier,
            ImageDataModule,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={
                "prog": prog,
                "usage": f"{prog} [--config FILE ...] [options]",
                "description": DESCRIPTION,
                "formatter_class": argparse.RawDescriptionHelpFormatter,
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(tokens),
            run=False,
            auto_configure_optimizers=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="The run's seed: weights, order, dropout.")
        for name, text in self._options:
            parser.add_argument(f"--{name}", type=str | None, help=text)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.init_args.image_shape", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        tokens, notices = merge_files(args)
        for part, example in (("model", "CNN"), ("data", "MNISTDataModule")):
            asks_for_help = any(token == "-h" or token.partition("=")[0].endswith("help") for token in tokens)
            if not asks_for_help and not any(token.startswith((f"--{part}", "--config")) for token in tokens):
                raise UserError(f"no {part} is given: add --config experiments/cnn.yaml, or --{part} {example}.")
        self.config = self._checked(lambda: parser.parse_args(tokens))
        self._resolved = self._plain(self.config)
        for notice in notices:
            _log.warning("NOTICE: %s", notice)

    def parse_config(self, config: Config) -> None:
        """Take a whole configuration, as `resolved` returns it or with objects still to be completed."""
        self.config, self._resolved = self._parsed(json.dumps(config))

    def _parse_text(self, text: str) -> tuple[Namespace, Config]:
        config = self._checked(lambda: self.parser.parse_object(json.loads(text)))
        return config, self._plain(config)

    def _checked(self, parse: Callable[[], Namespace]) -> Namespace:
        try:
            return parse()
        except argparse.ArgumentError as error:
            raise UserError(explain_parse_error(str(error), self.parser.get_defaults().keys())) from None

    def _plain(self, config: Namespace) -> Config:
        text = self.parser.dump(config, skip_none=False, skip_validation=True, format="json")
        not_config = {"config", *(name for name, _ in self._options)}
        return {key: value for key, value in json.loads(text).items() if key not in not_config}

    def resolved(self) -> Config:
        """The whole configuration as plain values: every argument of every object, links left out."""
        return copy.deepcopy(self._resolved)

    def _set_seed(self) -> None:
        """Seeded in `build`, not while parsing."""

    def instantiate_classes(self) -> None:
        """Parts in `build`, not while parsing."""

    def build(
        self, callbacks: Sequence[Callback] = (), logger_arguments: Config | None = None, **trainer_arguments: Any
    ) -> Parts:
        """Seed, and construct data, model and Trainer anew.

        Args:
            callbacks: added to the configured ones.
            logger_arguments: given to each configured logger that has such an argument and no value for it.
            trainer_arguments: values that replace configured arguments of the Trainer.

        Raises:
            UserError: a constructor refuses its arguments.
        """
        seed_everything(self.config.seed_everything, workers=True, verbose=False)
        self.__dict__.pop("config_dump", None)  # LightningCLI keeps the first configuration that it dumped
        config = self.config.clone()
        _complete_loggers(config, logger_arguments or {})
        try:
            parts = self.parser.instantiate_classes(config)
            arguments = {**parts.trainer.as_dict(), **trainer_arguments}
            own = arguments["callbacks"] or []
            arguments["callbacks"] = [*(own if isinstance(own, list) else [own]), *callbacks]
            plugins = arguments["plugins"] or []
            plugins = plugins if isinstance(plugins, list) else [plugins]
            arguments["plugins"] = [*plugins, CheckpointFiles(self.resolved())]
            # True stands for Lightning's default logger; losslab writes its own records.
            loggers = [] if arguments["logger"] in (None, True, False) else arguments["logger"]
            loggers = loggers if isinstance(loggers, list) else [loggers]
            arguments["logger"] = [GuardedLogger(logger) for logger in loggers]
            trainer = self.trainer_class(**arguments)
            if isinstance(trainer.precision_plugin, DoublePrecision):
                parts.model.double()  # before a checkpoint is loaded: Lightning would load it into float32 first
            return Parts(trainer, parts.model, parts.data)
        except (ValueError, TypeError, ModuleNotFoundError, MisconfigurationException) as error:
            raise UserError(explain_parse_error(str(error), ())) from error


def option_value(tokens: Sequence[str], name: str) -> str | None:
    """The value of `--name` among tokens that are not parsed yet; the last one, if there are several."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}")
    try:
        return parser.parse_known_args(list(tokens))[0].__dict__[name]
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from None


def find_own_modules() -> None:
    """Let `--model.loss my_module.MyLoss` find a module in the folder in which the command is called."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()


def _silence_upstream() -> None:
    """Lightning's advertisements, and warnings about its own code that a user cannot act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6 asks torch's tree type in a way that torch 2.15 deprecates.
    warnings.filterwarnings(
        "ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning, r"lightning\.pytorch\.utilities\._pytree"
    )
    # What is logged under several processes is computed from all of them already.
    warnings.filterwarnings("ignore", r"It is recommended to use .*sync_dist=True")


def _complete_loggers(config: Namespace, arguments: Config) -> None:
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace):
            for name, value in arguments.items():
                if name in logger.init_args and logger.init_args[name] in (None, ".", False):
                    logger.init_args[name] = value


def explain_parse_error(message: str, options: Iterable[str]) -> str:
    """What is wrong with a command line or an experiment file, and what may have been meant.

    Args:
        message: the parser's own message: for nested objects a tree, whose innermost branch is the cause.
        options: all names that the parser knows, such as "trainer.max_epochs".
    """
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        option = found[1].partition("=")[0]
        return f"unknown option {option}{did_you_mean(option.lstrip('-'), options, prefix='--')}"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return f"unknown key '{found[1]}.{found[2]}'{did_you_mean(f'{found[1]}.{found[2]}', options)}"
    if found := re.search(r"the following arguments are required: (.+)", message):
        return f"missing: {found[1]}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        return f"unknown class '{found[1]}.{found[2]}'{did_you_mean(found[2], _public_names(found[1]))}"
    if found := re.search(r"No module named '([^']+)'", message):
        return f"there is no module '{found[1]}' to take a class from; modules are looked for in this folder, too"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        hint = did_you_mean(found[1], _class_names(), "; write a class of one's own as my_module.MyClass")
        return f"unknown class '{found[1]}'{hint}"
    if found := re.search(r"Option '([^']+)' is not accepted(?:.*class_path='([^']+)')?", message):
        before = re.findall(r"given class_path '([^']+)'", message[: found.start()])
        owner = found[2] or (before[-1] if before else None)
        if owner is not None:
            return f"{class_name(owner)} has no argument '{found[1]}'{did_you_mean(found[1], _arguments(owner))}"
        key = found[1].removesuffix(".class_path")
        return f"unknown key '{key}'{did_you_mean(key, {*options, *(option.split('.')[0] for option in options)})}"
    if found := re.search(r"^\s+- (?!Expected|Problem|Does not|Type)(.+)$", message, re.MULTILINE):
        return found[1]  # a constructor's own words
    if found := re.search(r'Parser key "([^"]+)":\s+Expected a typing.Literal\[([^\]]+)\]. Got value: (.*)', message):
        return f"{_path_to(found.start(), message)}{found[1]} must be one of {found[2]}, got '{found[3]}'"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    expected = [_plain(name) for name in re.findall(r"Expected an? <class '([^']+)'>", message)]
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if keys and expected and value:
        types = " or ".join(dict.fromkeys(expected[-2:] if "null" in expected[-2:] else expected[-1:]))
        return f"{'.'.join(dict.fromkeys(keys))} must be {types}, got '{value[1]}'"
    return " ".join(message.split())


def _path_to(position: int, message: str) -> str:
    """The keys around the one at this position: "model.loss."."""
    return "".join(f"{key}." for key in dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message[:position])))


def _plain(type_name: str) -> str:
    return {"NoneType": "null"}.get(type_name, class_name(type_name).lower())


def _class_names() -> set[str]:
    """Short names: of the models, losses, class weightings and data modules that are imported."""
    found: set[Any] = set()
    waiting: list[Any] = [Loss, ClassWeighting, Classifier, ImageDataModule]
    while waiting:
        found.add(here := waiting.pop())
        waiting += here.__subclasses__()
    return {each.__name__ for each in found if not inspect.isabstract(each)}


def _public_names(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _arguments(class_path: str) -> set[str]:
    """Argument names of a class, with those that it hands on to its bases."""
    module, _, name = class_path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    constructors = [vars(base)["__init__"] for base in owner.__mro__ if "__init__" in vars(base) and base is not object]
    names = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return names - {"self", "args", "kwargs"}


class OptionParser(argparse.ArgumentParser):
    """Raises UserError where argparse prints its usage and leaves; no option may be abbreviated."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
