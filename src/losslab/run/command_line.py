"""LightningCLI as losslab uses it: parses an experiment, builds its parts, and explains a mistake in one line."""

import argparse
import atexit
import copy
import functools
import importlib
import inspect
import json
import logging
import os
import pydoc
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from losslab.data import ImageDataModule
from losslab.errors import UserError, did_you_mean, expand_path, notice
from losslab.losses import ClassWeighting, Loss, constructor_arguments
from losslab.models import Classifier
from losslab.run.callbacks import CheckpointFiles
from losslab.run.code import code_digests
from losslab.run.config import SEED, Config, as_list, as_object, class_name, merge_files, set_value
from losslab.run.precision import add_auto, resolve_auto
from losslab.run.terminal import OptionParser
from losslab.run.tracking import complete_loggers, guard_loggers

# Otherwise the device that StochasticWeightAveraging has by default is recorded as "Unable to serialize instance cpu".
register_type(torch.device)

TRAINER_DEFAULTS = {"devices": 1, "max_epochs": 3, "logger": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}

SEED_OF_DATA = "data.init_args.seed"
"""The argument that `seed_everything` sets, too."""

PARSED_KEPT = 256
"""Parsed configurations, without their seeds, kept in memory: a study parses each of them again."""

DESCRIPTION = """\
An experiment is a model, the data and a Trainer. Begin with a file and change single values:

  losslab fit --config experiments/cnn.yaml --model.loss FocalLoss --model.loss.gamma 2

A class is given by its short name, your own class as my_module.MyClass. Its arguments:

  losslab fit --model.help CNN        losslab fit --data.help MNISTDataModule
"""


class Parts(NamedTuple):
    """The objects that a configuration describes."""

    trainer: Trainer
    model: LightningModule
    data: ImageDataModule


class CommandLine(LightningCLI):
    """Parses an experiment; `build` then constructs its parts.

    Args:
        tokens: the command line after the command's name. Several `--config FILE` are merged first.
        prog: the command's name in the help.
        options: further options, as (name, help). Each takes one value, which `config` holds under its name.
        recorded: the configuration is that of a run, whose network was accepted when it was trained.

    Raises:
        UserError: a name or a value is invalid; the one-line message has the nearest valid name. No data is read.
    """

    def __init__(
        self, tokens: Sequence[str], prog: str, options: Sequence[tuple[str, str]] = (), recorded: bool = False
    ) -> None:
        self._options, self._recorded = options, recorded
        self.monitor: str | None = None
        """A study's monitored metric, for schedules that watch one; None leaves the model's own."""
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
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, order of images, dropout.")
        for name, text in self._options:
            flag = name == "accept_code_change"
            kind = {"action": "store_true"} if flag else {"type": str | None}
            parser.add_argument(f"--{name.replace('_', '-') if flag else name}", **kind, help=text)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments(SEED, SEED_OF_DATA)
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.image_shape", "model.init_args.image_shape", apply_on="instantiate")
        add_auto(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        tokens, notices = merge_files(args)
        for part, example in (("model", "CNN"), ("data", "MNISTDataModule")):
            asks_for_help = any(token == "-h" or token.partition("=")[0].endswith("help") for token in tokens)
            if not asks_for_help and not any(token.startswith((f"--{part}", "--config")) for token in tokens):
                raise UserError(f"no {part} is given: add --config experiments/cnn.yaml, or --{part} {example}.")
        named = option_value(tokens, "model.class_path") or option_value(tokens, "model")
        model = as_object(named) if named else json.loads(option_value(tokens, "config") or "{}").get("model")
        self.config, self._resolved = self._parse(model, lambda: parser.parse_args(tokens))
        for text in notices:
            notice(text)

    def parse_config(self, config: Config) -> None:
        """Replace the configuration by a whole one, from `resolved` or with arguments of objects still missing.

        One that differs from an earlier one in its seed alone is not parsed again.
        """
        seed = config.get(SEED)
        parsed, resolved = self._parsed(json.dumps(config if type(seed) is not int else {**config, SEED: 0}))
        self.config, self._resolved = parsed.clone(), copy.deepcopy(resolved)
        if type(seed) is int:
            self._resolved[SEED] = self.config[SEED] = seed
            if SEED_OF_DATA in self.config:
                self.config[SEED_OF_DATA] = seed

    def _parse_text(self, text: str) -> tuple[Namespace, Config]:
        content = json.loads(text)
        return self._parse(content.get("model"), lambda: self.parser.parse_object(content))

    def _parse(self, model: Any, parse: Callable[[], Namespace]) -> tuple[Namespace, Config]:
        """Return what `parse` returns, and its values as `resolved` has them; `model` is the network as it is given."""
        if not self._recorded:
            require_annotations(model)
        try:
            config = parse()
        except argparse.ArgumentError as error:
            if refused := re.search(r"YAML, line \d+, column .*", str(error)):  # in a file that a value names
                raise UserError(f"{_outer_keys(refused.start(), str(error)).rstrip('.')}: {refused[0]}") from None
            raise UserError(explain_parse_error(str(error), self.parser.get_defaults().keys())) from None
        resolve_auto(config.trainer)
        text = self.parser.dump(config, skip_none=False, skip_validation=True, format="json")
        not_config = {"config", *(name for name, _ in self._options)}
        resolved = {key: value for key, value in json.loads(text).items() if key not in not_config}
        code_digests(resolved)  # reads the sources now, as they were imported
        if not self._recorded:
            require_annotations(resolved.get("model"))  # of a short name, the class is known only now
        return config, resolved

    def resolved(self) -> Config:
        """Return the whole configuration as plain values: every argument of every object, without linked ones."""
        return copy.deepcopy(self._resolved)

    def _set_seed(self) -> None:
        """Do nothing: `build` sets the seed."""

    def instantiate_classes(self) -> None:
        """Do nothing: `build` constructs the parts."""

    def build(
        self, callbacks: Sequence[Callback] = (), logger_arguments: Config | None = None, **trainer_arguments: Any
    ) -> Parts:
        """Set the seed, and construct new data, model and Trainer.

        Args:
            callbacks: added to the configured ones.
            logger_arguments: passed to each configured logger that has such an argument and no value for it.
            trainer_arguments: replace configured arguments of the Trainer.

        Raises:
            UserError: a constructor rejects its arguments.
        """
        seed_everything(self.config.seed_everything, workers=True, verbose=False)
        config = self.config.clone()
        # For `save_hyperparameters`. LightningCLI would parse and dump the whole configuration again, and only once.
        self.config_dump = self.resolved()
        if SEED_OF_DATA in config:
            set_value(self.config_dump, SEED_OF_DATA, config.seed_everything)
        expand_paths(config)
        complete_loggers(config.trainer.logger, logger_arguments or {})
        try:
            parts = self.parser.instantiate_classes(config)
            arguments = {**parts.trainer.as_dict(), **trainer_arguments}
            arguments["callbacks"] = [*as_list(arguments["callbacks"]), *callbacks]
            arguments["plugins"] = [*as_list(arguments["plugins"]), CheckpointFiles(self.resolved())]
            arguments["logger"] = guard_loggers(arguments["logger"])
            trainer = self.trainer_class(**arguments)
            if isinstance(trainer.precision_plugin, DoublePrecision):
                parts.model.double()  # now, since Lightning would load a checkpoint into float32 first
            if self.monitor is not None:
                parts.model.monitor = self.monitor
            return Parts(trainer, parts.model, parts.data)
        except (ValueError, TypeError, ModuleNotFoundError, MisconfigurationException) as error:
            raise UserError(explain_parse_error(str(error), ())) from error


@atexit.register
def _leave_process_group() -> None:
    """End gloo's threads: one that wants the interpreter while it closes aborts the process of a finished training.

    Lightning does this for NCCL only.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def option_value(tokens: Sequence[str], name: str) -> str | None:
    """Return the value of `--name` in an unparsed command line; the last one if there are several."""
    parser = OptionParser(add_help=False)
    parser.add_argument(f"--{name}")
    return vars(parser.parse_known_args(list(tokens))[0])[name]


def require_annotations(model: Any) -> None:
    """Refuse a network with constructor arguments without a type: the parser would pass a loss's name for the loss.

    Args:
        model: the network's class path, or {"class_path": ...}; anything else is left to the parser.

    Raises:
        UserError: names the arguments, and the types to write.
    """
    class_path = model.get("class_path") if isinstance(model, dict) else model
    module, _, name = str(class_path).rpartition(".")
    try:
        network = getattr(importlib.import_module(module), name)
    except Exception:  # the parser imports the class again, and explains
        return
    arguments = constructor_arguments(network) if Classifier in getattr(network, "__mro__", ()) else {}
    base = inspect.signature(Classifier).parameters
    own = [each for name, each in arguments.items() if name not in base and each.annotation is each.empty]
    inherited = [name for name, each in arguments.items() if name in base and each.annotation in (each.empty, Any)]
    remedies = [f"write {', '.join(f'{each.name}: {_type_of(each.default)}' for each in own)}"] if own else []
    if inherited:
        remedies.append(f"leave {', '.join(inherited)} to **kwargs: Any and super().__init__(**kwargs)")
    if remedies:
        raise UserError(f"the constructor of {class_path} has arguments without a type: {'; '.join(remedies)}.")


def _type_of(default: Any) -> str:
    if isinstance(default, list | tuple) and default:
        return f"Sequence[{_type_of(default[0])}]"
    return type(default).__name__ if isinstance(default, bool | int | float | str) else "a type, such as int | None"


def expand_paths(config: Any, key: str = "") -> None:
    """Replace `~` and $VARIABLES in those arguments of objects that are paths by their type or name, in place.

    What a run records keeps them, since another machine has other folders.

    Raises:
        UserError: a variable is not set; names the argument, such as data.root.
    """
    for part in config if isinstance(config, list) else [config]:
        values = vars(part) if isinstance(part, Namespace) else {}
        arguments = values.get("init_args")
        if isinstance(arguments, Namespace):
            owner = pydoc.locate(values["class_path"])
            known = constructor_arguments(owner) if isinstance(owner, type) else {}
            for name, value in vars(arguments).items():
                text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
                kind = f"{name} {known[name].annotation}" if name in known else ""
                if re.search(r"^~|\$", text) and "://" not in text and re.search(r"path|dir\b", kind, re.IGNORECASE):
                    arguments[name] = str(expand_path(text, f"{key}.{name}"))
            expand_paths(arguments, key)
        else:
            for name, value in values.items():
                expand_paths(value, f"{key}.{name}" if key else name)


def find_own_modules() -> None:
    """Put the current folder on the import path, so that `--model.loss my_module.MyLoss` works."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()


def _silence_upstream() -> None:
    """Hide Lightning's advertisements, and warnings about its own code that a user cannot act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6 asks torch's tree type in a way that torch 2.15 deprecates.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
    # Under several processes, every logged value is already computed from all of them.
    warnings.filterwarnings("ignore", r"It is recommended to use .*sync_dist=True")


def explain_parse_error(message: str, options: Iterable[str]) -> str:
    """Return a parser's message as one line that names the mistake and the nearest valid name.

    Args:
        message: the parser's own message: for nested objects a tree whose innermost branch is the cause.
        options: the names of all options, such as "trainer.max_epochs".
    """
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        option = found[1].partition("=")[0]
        return f"unknown option {option}{did_you_mean(option.lstrip('-'), options, prefix='--')}"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return f"unknown key '{found[1]}.{found[2]}'{did_you_mean(f'{found[1]}.{found[2]}', options)}"
    if found := re.search(r"the following arguments are required: (.+)", message):
        return f"missing: {found[1]}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", message):
        public = [name for name in dir(sys.modules.get(found[1])) if not name.startswith("_")]
        return f"unknown class '{found[1]}.{found[2]}'{did_you_mean(found[2], public)}"
    if found := re.search(r"No module named '([^']+)'", message):
        return f"there is no module '{found[1]}'; modules are searched in the current folder and installed packages"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        hint = did_you_mean(found[1], _class_names(), "; write your own class as my_module.MyClass")
        return f"unknown class '{found[1]}'{hint}"
    if found := re.search(r"Option '([^']+)' is not accepted(?:.*class_path='([^']+)')?", message):
        before = re.findall(r"given class_path '([^']+)'", message[: found.start()])
        owner = found[2] or (before[-1] if before else None)
        if owner is not None:
            return f"{class_name(owner)} has no argument '{found[1]}'{did_you_mean(found[1], _argument_names(owner))}"
        key = found[1].removesuffix(".class_path")
        return f"unknown key '{key}'{did_you_mean(key, {*options, *(option.split('.')[0] for option in options)})}"
    if found := re.search(r"^\s+- (?!Expected|Problem|Does not|Type)(.+)$", message, re.MULTILINE):
        return found[1]  # a constructor's own message
    if found := re.search(r'Parser key "([^"]+)":\s+Expected a typing.Literal\[([^\]]+)\]. Got value: (.*)', message):
        return f"{_outer_keys(found.start(), message)}{found[1]} must be one of {found[2]}, got '{found[3]}'"
    union = r'Parser key "([^"]+)":\s+Does not .*\s+Subtypes: \[(.*Literal.*)\]\s[\s\S]*?Given value: (.*)'
    if found := re.search(union, message):
        kinds = re.findall(r"Literal\[([^\]]+)\]|<class '(\w+)'>", found[2])
        allowed = ", ".join(values or {"NoneType": "null"}.get(kind, kind) for values, kind in kinds)
        return f"{_outer_keys(found.start(), message)}{found[1]} must be one of {allowed}, got '{found[3]}'"
    keys = re.findall(r'Parser key "([^"]+)"', message)
    types = re.findall(r"Expected an? <class '([^']+)'>", message)
    expected = ["null" if name == "NoneType" else class_name(name).lower() for name in types]
    value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    if keys and expected and value:
        allowed = " or ".join(dict.fromkeys(expected[-2:] if "null" in expected[-2:] else expected[-1:]))
        return f"{'.'.join(dict.fromkeys(keys))} must be {allowed}, got '{value[1]}'"
    return " ".join(message.split())


def _outer_keys(position: int, message: str) -> str:
    """Return the keys named before this position of the message, as "model.loss."."""
    return "".join(f"{key}." for key in dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message[:position])))


def _class_names() -> set[str]:
    """Return the short names of all imported models, losses, class weightings and data modules."""
    classes: list[Any] = [Loss, ClassWeighting, Classifier, ImageDataModule]
    for kind in classes:  # the list grows while it is read
        classes += kind.__subclasses__()
    return {kind.__name__ for kind in classes if not inspect.isabstract(kind)}


def _argument_names(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(constructor_arguments(getattr(importlib.import_module(module), name)))
