"""Configurations as plain values: identity, differences, and configuration files laid over each other."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from losslab.errors import UserError, expand_path
from losslab.run.terminal import OptionParser
from losslab.run.values import as_value, read_yaml

Config = dict[str, Any]

WITHOUT_EFFECT = (
    "data.init_args.root",
    "data.init_args.eval_batch_size",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.default_root_dir",
    "trainer.profiler",
)
"""Paths whose values change no result: ignored when two configurations are compared."""

ADDED_SINCE: Config = {"model.init_args.lr_interval": None, "data.init_args.validation": "balanced"}
"""Arguments that earlier versions did not have, by dotted path, with defaults under which a run is as it was then."""

SEED = "seed_everything"


def config_hash(config: Config, with_seed: bool = True) -> str:
    """Return the SHA-256 (64 hex digits) of all values that affect a run's result, with or without its seed."""
    content = {path: value for path, value in values_with_effect(config).items() if with_seed or path != SEED}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def values_with_effect(config: Config) -> dict[str, Any]:
    """Return all values that affect a run's result, by dotted path."""
    ignored = tuple(f"{path}." for path in WITHOUT_EFFECT)
    return {
        path: value
        for path, value in _leaves(config)
        if not f"{path}.".startswith(ignored) and (path not in ADDED_SINCE or value != ADDED_SINCE[path])
    }


def differences(ours: Config, theirs: Config, with_trainer: bool = True) -> list[str]:
    """Return a line "path: our value -> their value" for each value that differs and affects the result.

    Args:
        ours: one configuration.
        theirs: the other one.
        with_trainer: also compare the Trainer's arguments.
    """
    a, b, absent = values_with_effect(ours), values_with_effect(theirs), "(absent)"
    return [
        f"{path}: {a.get(path, absent)} -> {b.get(path, absent)}"
        for path in sorted({*a, *b})
        # As JSON: 1 batch is not 1.0, all of them; NaN equals itself.
        if json.dumps(a.get(path, absent)) != json.dumps(b.get(path, absent))
        and (with_trainer or not path.startswith("trainer."))
    ]


def set_value(config: Config, path: str, value: Any) -> None:
    """Set the value at a dotted `path`, whatever it was before; missing mappings on the way are created."""
    *way, last = path.split(".")
    for key in way:
        if not isinstance(config.get(key), dict):
            config[key] = {}
        config = config[key]
    config[last] = value


def is_given(config: Config, path: str) -> bool:
    """Return whether `config` has a value at a dotted `path`, or one that is no mapping above it."""
    part: Any = config
    for key in path.split("."):
        if not isinstance(part, dict):
            return True
        if key not in part:
            return False
        part = part[key]
    return True


def class_name(part: Any) -> str:
    """Return the last part of an object's class path; "" where the configuration holds no object.

    Args:
        part: {"class_path": ...}, a class path, or any other value.
    """
    class_path = part.get("class_path", "") if isinstance(part, dict) else part if isinstance(part, str) else ""
    return str(class_path).rsplit(".", 1)[-1]


def as_object(text: str) -> Config | str:
    """Return a value of the command line: a mapping if it is written as one, else the text, such as a class path."""
    value = as_value(text)
    return value if isinstance(value, dict) else text


def as_list(value: Any) -> list[Any]:
    """Return a setting that may be one object, a list of them, or none (None, False) as a list."""
    if value is None or value is False:
        return []
    return value if isinstance(value, list) else [value]


def merge_files(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Replace every `--config FILE` of a command line by one merged configuration, put before the other tokens.

    jsonargparse keeps those arguments of a replaced class that the new class accepts, too: one loss's gamma would
    silently become another's. Here an object whose class changes, in a later file or on the command line, starts
    without arguments.

    Returns:
        The command line, and a notice for each object whose arguments were dropped.
    """
    parser = OptionParser(add_help=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    given_files, rest = parser.parse_known_args(tokens)
    files = given_files.config
    merged: dict[str, Any] = {}
    notices: list[str] = []
    for file in files:
        content: dict[str, Any] = {}
        paths = read_yaml(expand_path(file, "--config"))
        for path, value in sorted(paths.items(), key=lambda item: item[0].count(".")):  # a mapping before its parts
            if is_given(content, path):
                raise UserError(f"{file}: {path} is given twice, as a path and within its mapping: delete one.")
            set_value(content, path, value)
        _overlay(merged, content, file, notices)
    for number, token in enumerate(rest):
        option, equals, value = token.partition("=")
        if option.startswith("--"):
            given = value if equals else "".join(rest[number + 1 : number + 2])
            is_file = given.endswith((".yaml", ".yml", ".json")) and Path(given).is_file()
            as_value(Path(given).read_text() if is_file else given, given if is_file else option)  # may refuse it
            _drop_replaced(merged, option[2:].removesuffix(".class_path"), given, option, notices)
    return [*(["--config", json.dumps(merged)] if files else []), *rest], notices


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for each value that is not a mapping with entries."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _overlay(below: dict[str, Any], above: dict[str, Any], source: str, notices: list[str]) -> None:
    """Merge `above` into `below`, in place; an object of another class replaces the whole object below it."""
    for key, value in above.items():
        under = below.get(key)
        if isinstance(value, str) and isinstance(under, dict) and class_name(under):  # a class path alone
            value = {"class_path": value}
        if not isinstance(value, dict) or not isinstance(under, dict):
            below[key] = value
        elif _is_other_class(under, value):
            _note_dropped(under, key, value, source, notices)
            below[key] = value
        else:
            _overlay(under, value, source, notices)


def _is_other_class(former: Any, new: Any) -> bool:
    return bool(class_name(former) and class_name(new)) and class_name(former) != class_name(new)


def _drop_replaced(merged: dict[str, Any], path: str, value: str, source: str, notices: list[str]) -> None:
    """Delete the object at `path` if the command line gives it another class, or a whole object."""
    parent: Any = None
    former: Any = merged
    for key in path.split("."):
        parent = former.get("init_args", former) if isinstance(former, dict) and key not in former else former
        former = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(former, dict) or "class_path" not in former:
        return
    new = as_object(value)
    if isinstance(new, dict) or _is_other_class(former, new):
        _note_dropped(former, key, new, source, notices)
        del parent[key]


def _note_dropped(former: Config, key: str, new: Config | str, source: str, notices: list[str]) -> None:
    kept = new.get("init_args") or {} if isinstance(new, dict) and not _is_other_class(former, new) else {}
    if dropped := ", ".join(name for name in former.get("init_args") or {} if name not in kept):
        what = f"the arguments of {class_name(former)} ({dropped}) are dropped"
        notices.append(f"{source} makes {key} a {class_name(new)}: {what}.")
