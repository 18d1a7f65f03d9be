"""A resolved configuration as plain values: what it identifies, and where two of them differ."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from losslab.errors import UserError, did_you_mean

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
"""Paths whose value changes no result: they do not count when two configurations are compared."""

SEED = "seed_everything"


def config_hash(config: Config, with_seed: bool = True) -> str:
    """SHA-256, 64 hex digits, of all that determines the result of a run; `with_seed=False` leaves the seed out."""
    content = {path: value for path, value in values_with_effect(config).items() if with_seed or path != SEED}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def values_with_effect(config: Config) -> dict[str, Any]:
    """All that determines the result of a run, by dotted path."""
    return {path: value for path, value in _leaves(config) if _counts(path)}


def differences(ours: Config, theirs: Config) -> list[str]:
    """One line "path: a -> b" for each value with an effect that differs, from `ours` to `theirs`."""
    a, b = dict(_leaves(ours)), dict(_leaves(theirs))
    absent = "(absent)"
    return [
        f"{path}: {a.get(path, absent)} -> {b.get(path, absent)}"
        for path in sorted({*a, *b})
        if _counts(path) and a.get(path, absent) != b.get(path, absent)
    ]


def set_value(config: Config, path: str, value: Any) -> None:
    """Put `value` at a dotted `path`, in place of whatever is there; objects on the way are made where missing."""
    *way, last = path.split(".")
    for key in way:
        if not isinstance(config.get(key), dict):
            config[key] = {}
        config = config[key]
    config[last] = value


def _counts(path: str) -> bool:
    return not any(path == without or path.startswith(f"{without}.") for without in WITHOUT_EFFECT)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, numbers such as 1e-3 read as numbers.

    Raises:
        UserError: it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = get_loader("yaml")(path.read_text())
    except OSError as error:
        names = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"cannot read {path}: {error.strerror}{did_you_mean(str(path), names, '.')}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping such as 'model: ...', got {type(content).__name__}.")
    return content


def merge_files(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Replace every `--config FILE` of a command line by one merged configuration, in front of what remains.

    jsonargparse keeps those arguments of a replaced class that the new class happens to accept: a gamma meant for one
    loss would silently serve another. Here an object whose class changes, in a later file or on the command line,
    starts from nothing.

    Returns:
        The command line, and a notice for each object whose arguments were dropped.
    """
    files, rest, at = [], [], 0
    while at < len(tokens):
        option, equals, value = tokens[at].partition("=")
        if option in ("--config", "-c"):
            at += 1
            if not equals and at == len(tokens):
                raise UserError(f"{option} needs a file, such as experiments/cnn.yaml.")
            files.append(Path(value if equals else tokens[at]))
        else:
            rest.append(tokens[at])
        at += 1
    merged: dict[str, Any] = {}
    notices: list[str] = []
    for file in files:
        _overlay(merged, read_yaml(file), str(file), notices)
    for number, token in enumerate(rest):
        option, equals, value = token.partition("=")
        if option.startswith("--"):
            following = rest[number + 1] if number + 1 < len(rest) else ""
            _make_way(merged, option[2:].removesuffix(".class_path"), value if equals else following, option, notices)
    return [*(["--config", json.dumps(merged)] if files else []), *rest], notices


def _overlay(below: dict[str, Any], above: dict[str, Any], source: str, notices: list[str]) -> None:
    """Lay one configuration over another, in place; an object of another class replaces the one below it whole."""
    for key, value in above.items():
        under = below.get(key)
        if not isinstance(value, dict) or not isinstance(under, dict):
            below[key] = value
        elif _is_other_class(under, value.get("class_path")):
            _note_dropped(under, key, value["class_path"], source, notices)
            below[key] = value
        else:
            _overlay(under, value, source, notices)


def _is_other_class(former: dict[str, Any], new: str | None) -> bool:
    known = former.get("class_path")
    return known is not None and new is not None and class_name(known) != class_name(new)


def _make_way(merged: dict[str, Any], path: str, value: str, source: str, notices: list[str]) -> None:
    """If the command line gives the object at `path` another class, take away the arguments of the former one."""
    parent: Any = merged
    *way, last = path.split(".")
    for key in way:
        if isinstance(parent, dict) and key not in parent and "init_args" in parent:
            parent = parent["init_args"]
        parent = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(parent, dict) and last not in parent and "init_args" in parent:
        parent = parent["init_args"]
    former = parent.get(last) if isinstance(parent, dict) else None
    if not isinstance(former, dict) or "class_path" not in former:
        return
    if value.startswith("{"):  # a whole object replaces a whole object
        del parent[last]
    elif _is_other_class(former, value):
        _note_dropped(former, last, value, source, notices)
        del parent[last]


def _note_dropped(former: dict[str, Any], key: str, new: str, source: str, notices: list[str]) -> None:
    dropped = ", ".join(former.get("init_args") or {})
    if dropped:
        notices.append(
            f"{source} makes {key} a {class_name(new)}: what was given to {class_name(former)} ({dropped}) "
            "does not carry over."
        )


def class_name(part: Any) -> str:
    """The last part of an object's class path; "" where the configuration holds no object.

    Args:
        part: {"class_path": ...}, a class path, or anything else.
    """
    class_path = part.get("class_path", "") if isinstance(part, dict) else part if isinstance(part, str) else ""
    return str(class_path).rsplit(".", 1)[-1]
