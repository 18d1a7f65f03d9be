"""The identity of code: a digest of each class and function that a configuration names, with all that it uses.

A digest covers the statements that define a class, and those of its bases and of the functions, classes and constants
that they use, in whatever file. It leaves out Python itself and installed packages, whose versions a manifest has (an
installed losslab counts by its version), comments, docstrings, types of arguments, and what else is in the same files.
"""

import ast
import builtins
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from losslab.run.config import Config, values_with_effect

Use = tuple[str, tuple[str, ...]]
"""A module, and a name in it with attributes read from it: ("mine", ("helpers", "f")) for `helpers.f` in mine.py."""

_PACKAGE = __name__.partition(".")[0]


def code_digests(config: Config) -> dict[str, str]:
    """Return the digests of the classes and functions of a configuration that are losslab's or in files of the user's.

    A source file is read once a process. So the first call for a class should follow its import.

    Args:
        config: a configuration whose classes were imported. Paths without effect on a result, such as loggers, are
            left out.

    Returns:
        Twelve hex digits by import path: {"mine.MyLoss": "0123456789ab"}.
    """
    paths = sorted(set(_import_paths(list(values_with_effect(config).values()))))
    return {path: digest for path in paths if (digest := _digest(path)) is not None}


def changed_code(known: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the names that have a digest in both, and not the same one."""
    return sorted(name for name in known.keys() & ours.keys() if known[name] != ours[name])


def _import_paths(value: Any) -> Iterator[str]:
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from _import_paths(part)
        elif isinstance(part, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", part):
            yield part


@functools.cache
def _digest(import_path: str) -> str | None:
    parts = import_path.split(".")
    length = next((n for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in sys.modules), 0)
    # A text such as "val.loss" names no module; a module alone is nothing that a configuration builds.
    waiting: list[Use] = [(".".join(parts[:length]), tuple(parts[length:]))] if length else []
    seen, texts = set(waiting), set[str]()
    while waiting:
        text, uses = _definition(waiting.pop())
        texts.add(text)
        waiting += (new := set(uses) - seen)
        seen |= new
    texts.discard("")
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:12] if texts else None


class _Source(NamedTuple):
    """What a module's source binds.

    Args:
        is_package: whether it may have submodules.
        statements: top-level statements by the names that they bind or change.
        imports: what its imports bind, functions' imports included.
        stars: the modules of `from module import *`.
        digest: of a file that is no Python source; "" otherwise.
    """

    is_package: bool
    statements: dict[str, list[ast.AST]]
    imports: dict[str, list[Use]]
    stars: list[str]
    digest: str = ""


@functools.cache
def _definition(use: Use) -> tuple[str, tuple[Use, ...]]:
    """Return the text that defines a name, "" for one that is defined elsewhere; and what the definition uses."""
    module, (name, *rest) = use[0], use[1] or ("",)
    source = _source(module)
    if source is None:
        own = module.partition(".")[0] == _PACKAGE
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}" if own else "", ()
    if source.digest:
        return f"{module} {source.digest}", ()
    if not name:  # a module that is used as an object, as in `getattr(module, name)`
        return "", tuple((module, (each,)) for each in (*source.statements, *source.imports))
    found = [(target, (*names, *rest)) for target, names in source.imports.get(name, ())]
    if statements := source.statements.get(name, []):
        found += [(module, chain) for statement in statements for chain in _names(statement)]
    uses = [each for each in found if each != use]
    if not uses and not statements and not hasattr(builtins, name):
        uses = [(star, use[1]) for star in source.stars]
        if source.is_package and _source(f"{module}.{name}") is not None:
            uses.append((f"{module}.{name}", tuple(rest)))
        value: Any = getattr(sys.modules.get(module), name, None)  # bound by a module's __getattr__ or a call
        if getattr(value, "__module__", module) != module and hasattr(value, "__qualname__"):
            uses.append((value.__module__, (value.__qualname__.partition(".")[0],)))
    text = f"{module}.{name} {[_plain(statement) for statement in statements]}" if statements else ""
    return text, tuple(uses)


@functools.cache
def _source(module: str) -> _Source | None:
    """Return what a module binds; None for one of Python or of an installed package."""
    try:
        spec = importlib.util.find_spec(module)
        folders = [*(spec.submodule_search_locations or ())] if spec else []  # a package may have several, and no file
        file = Path(spec.origin or "" if spec and spec.has_location else folders[0]).resolve(strict=True)
    except (ImportError, AttributeError, ValueError, OSError, IndexError):
        return None
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    if installed or any(file.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")):
        return None
    is_package = bool(folders)
    source = _Source(is_package, {}, {}, [])
    if file.is_dir():
        return source
    content = file.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # a compiled module, or one that was edited since its import
        return source._replace(digest=hashlib.sha256(content).hexdigest())
    _read_statements(tree.body, (), source.statements)
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = alias.name if alias.asname else alias.name.partition(".")[0]
                source.imports.setdefault(alias.asname or target, []).append((target, ()))
        elif isinstance(node, ast.ImportFrom):
            target = "." * node.level + (node.module or "")
            target = importlib.util.resolve_name(target, package) if node.level else target
            source.stars.extend(target for alias in node.names if alias.name == "*")
            for alias in node.names:
                source.imports.setdefault(alias.asname or alias.name, []).append((target, (alias.name,)))
    return source


def _read_statements(body: list[Any], around: tuple[ast.AST, ...], found: dict[str, list[ast.AST]]) -> None:
    """Add top-level statements to `found`; `around` are the conditions that they stand under."""
    for statement in body:
        match statement:
            case ast.If(test, inside, otherwise):
                if "__name__" not in {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}:
                    _read_statements(inside, (*around, test), found)  # else it is run as a script only
                _read_statements(otherwise, (*around, test), found)
            case ast.Try(inside, handlers, otherwise, finally_):
                handled = [each for handler in handlers for each in handler.body]
                _read_statements([*inside, *handled, *otherwise, *finally_], around, found)
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                for name in _bound(statement):
                    found.setdefault(name, []).extend((*around, statement))


def _bound(statement: ast.AST) -> set[str]:
    """Return the names that a top-level statement binds, or changes, as `TABLE["x"] = 3` and `setattr(A, ...)` do."""
    match statement:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            return {name}
        case ast.Assign(targets) | ast.Delete(targets):
            changed: list[Any] = targets
        case ast.AugAssign(target) | ast.AnnAssign(target):
            changed = [target]
        case _:
            changed = [statement]
    return {node.id for part in changed for node in ast.walk(part) if isinstance(node, ast.Name)}


def _names(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield each name in a statement with the attributes read from it, those in types of arguments left out."""
    attributes: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        attributes.insert(0, inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield inner.id, *attributes
        return
    for field, value in ast.iter_fields(inner):
        if field not in ("annotation", "returns"):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from _names(part)


def _plain(value: Any) -> Any:
    """Return a statement as plain values, the same in each version of Python, without docstrings."""
    if isinstance(value, list):
        return [_plain(part) for part in value if not _is_docstring(part)]
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = ast.iter_fields(value)
    return [type(value).__name__, *((field, _plain(part)) for field, part in fields if part not in (None, []))]


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
