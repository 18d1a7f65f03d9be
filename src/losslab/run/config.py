"""A resolved configuration as plain values: what it identifies, and where two of them differ."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

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
