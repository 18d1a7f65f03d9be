"""Values of a configuration: YAML that says something else than its author thinks is refused; 1 never becomes 1.0."""

import datetime
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import _typehints, set_loader
from jsonargparse._common import parent_parser
from jsonargparse._util import import_object
from jsonargparse.typing import register_type, timedelta_deserializer

from losslab.errors import UserError, did_you_mean

MAX_VALUES = 100_000
"""Values in one file, each alias counted as often as it is used: ten aliases of ten aliases ... would be billions."""

_STRING, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NO_VALUE = ("tag:yaml.org,2002:binary", "tag:yaml.org,2002:timestamp")
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml may be missing
    """Constructs plain values; an alias is a copy, so that changing it does not change what it stands for."""

    source = ""
    constructed = 0

    def construct_document(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):  # a word of the command line
            return self.construct_object(node)
        try:
            return self._value(node)
        except RecursionError:
            raise self._refused(node, "it is nested too deeply, or an alias stands within its own anchor.") from None

    def _value(self, node: yaml.Node) -> Any:
        self.constructed += 1
        if self.constructed > MAX_VALUES:
            raise self._refused(node, f"with its aliases written out, the text has more than {MAX_VALUES} values.")
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(part) for part in node.value]
        if not isinstance(node, yaml.ScalarNode) or node.tag in _NO_VALUE:
            raise self._refused(node, f"{node.tag} is no mapping, list, text or number: put it in quotes.")
        try:
            value = self.construct_object(node)
        except ValueError as error:  # !!int one
            raise self._refused(node, f"{error}.") from None
        if isinstance(value, int) and re.match(r"[-+]?0[0-9_]|.*:", node.value):
            hint = "as one number" if ":" in node.value else "without leading zeros"
            raise self._refused(node, f"YAML reads {node.value} as {value}: write it {hint}, or put it in quotes.")
        return value

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, part in node.value:
            if key.tag not in (_STRING, _MERGE):
                is_word = isinstance(key, yaml.ScalarNode)
                what = f"YAML reads {key.value} as {self.construct_object(key)!r}" if is_word else "this is a list"
                raise self._refused(key, f"a key must be a string, but {what}: put it in quotes.")
            if key.value in lines:
                again = f"{key.value} is given twice, first in line {lines[key.value]}: delete or rename one."
                raise self._refused(key, again)
            lines[key.value] = key.start_mark.line + 1
            if key.tag == _STRING:
                own[key.value] = self._value(part)
                continue
            bases = part.value if isinstance(part, yaml.SequenceNode) else [part]
            for base in reversed(bases):  # the first one wins
                if not isinstance(base, yaml.MappingNode):
                    raise self._refused(base, "<< must be followed by the alias of a mapping, or a list of them.")
                merged |= self._value(base)
        return merged | own

    def _refused(self, node: yaml.Node, problem: str) -> UserError:
        mark = node.start_mark
        return UserError(f"{self.source}, line {mark.line + 1}, column {mark.column + 1}: {problem}")


class _Dumper(yaml.SafeDumper):
    """Puts those strings in quotes that `_Loader` would read as something else."""


for _resolver in (_Loader, _Dumper):  # as jsonargparse: 1e-3 is a number, 2026-01-01 a string
    _resolver.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":float", ":timestamp"))]
        for first, known in _resolver.yaml_implicit_resolvers.items()
    }
    _resolver.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(text: str, source: str = "YAML") -> Any:
    """Return the value of a YAML text.

    Args:
        text: a whole file, or a value of the command line.
        source: the file or the option, for the message.

    Raises:
        UserError: a key is given twice or is no string, a number has leading zeros or colons, or the text with its
            aliases written out is too large.
        yaml.YAMLError: the text is not YAML.
    """
    loader = _Loader(text)
    loader.source = source
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_value(text: str, source: str = "YAML") -> Any:
    """Return a value of the command line, which is read as YAML; text that is not YAML is kept as it is."""
    try:
        return load_yaml(text, source)
    except yaml.YAMLError:
        return text


def dump_yaml(content: dict[str, Any]) -> str:
    """Return a YAML text that `load_yaml` reads as the same values of the same types."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; 1e-3 is a number.

    Raises:
        UserError: the file cannot be read, is not YAML, holds no mapping, or see `load_yaml`.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        names = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"cannot read {path}: {error.strerror}{did_you_mean(str(path), names, '.')}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping such as 'model: ...', got {type(content).__name__}.")
    return content


def _load_for_jsonargparse(text: str) -> Any:
    """Return the text itself for "{a, b}" and "a:", as jsonargparse's own loader does."""
    value = load_yaml(text)
    is_text = isinstance(value, dict) and bool(value) and ":" not in text.strip()[:-1]
    return text if is_text else value


def _int_before_float(sort: Callable[..., Sequence[Any]], subtypes: Sequence[Any], *args: Any) -> list[Any]:
    """Return the types of a union in the order in which jsonargparse tries them, int before float.

    Else 1 becomes 1.0, which Trainer(limit_train_batches=...) reads as all batches. The order in the source does not
    count: `typing` has one object for Optional[Union[int, float]] and Optional[Union[float, int]], the one that any
    library asked for first.
    """
    ordered = list(sort(subtypes, *args))
    if int in ordered and float in ordered[: ordered.index(int)]:
        ordered.remove(int)
        ordered.insert(ordered.index(float), int)
    return ordered


def _timedelta_text(value: Any) -> str:
    """Refuse what is no timedelta: jsonargparse would make the text "{'minutes': 2}" of {minutes: 2}."""
    if not isinstance(value, datetime.timedelta):
        raise TypeError(f"{value!r} is no timedelta")
    return str(value)


def _remember_class_parsers(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return jsonargparse's function that makes the parser of a class's arguments, with its results kept.

    jsonargparse makes that parser some twenty times for one configuration, each from the class's source and docstring,
    which is most of the time that parsing and building take. A parser keeps nothing of what it has parsed.
    """
    kept: dict[Any, Any] = {}

    @functools.wraps(make)
    def class_parser(val_class: Any, sub_add_kwargs: Any = None, skip_args: Any = None) -> Any:
        kind = import_object(val_class) if isinstance(val_class, str) else val_class
        links = _typehints.nested_links.get()
        key = (kind, type(parent_parser.get()), repr(sub_add_kwargs), repr(skip_args), repr(links))
        if key not in kept:
            kept[key] = make(kind, sub_add_kwargs, skip_args)
        return kept[key]

    return class_parser


_class_parser = _remember_class_parsers(_typehints.ActionTypeHint.get_class_parser)
_typehints.ActionTypeHint.get_class_parser = staticmethod(_class_parser)  # type: ignore[method-assign]
_typehints.sort_subtypes_for_union = functools.partial(_int_before_float, _typehints.sort_subtypes_for_union)
register_type(datetime.timedelta, _timedelta_text, timedelta_deserializer, fail_already_registered=False)
set_loader("yaml", _load_for_jsonargparse, (yaml.YAMLError,))
