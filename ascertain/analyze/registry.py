"""Analyzers by name, and analyzers from options in files and on command lines."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ascertain.analyze.base import Analyzer
from ascertain.errors import InputError

__all__ = ["analyzers", "explain", "find", "make", "options_of", "schema"]


@cache
def analyzers() -> Mapping[str, type[Analyzer]]:
    """Every analyzer of this package by name, sorted; a new one is one file here."""
    package = import_module("ascertain.analyze")
    found: dict[str, type[Analyzer]] = {}
    for module in pkgutil.iter_modules(package.__path__, "ascertain.analyze."):
        if module.ispkg:
            continue
        home = import_module(module.name)
        for item in (getattr(home, name) for name in getattr(home, "__all__", ())):
            if isinstance(item, type) and issubclass(item, Analyzer) and item is not Analyzer:
                found[item.called()] = item
    return dict(sorted(found.items()))


def find(name: str) -> type[Analyzer]:
    """The analyzer of a name, or of ``package.module:Class`` for one written elsewhere; raises InputError with the nearest ones."""
    known = analyzers()
    if name in known:
        return known[name]
    if ":" in name:
        return _elsewhere(name)
    near = get_close_matches(name, known, n=3) or list(known)
    raise InputError(f"there is no analyzer called {name!r}; choose {' or '.join(near)}.")


def _elsewhere(name: str) -> type[Analyzer]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"there is no analyzer {name} ({error}); check the name, and that its package is installed.") from None
    if not (isinstance(found, type) and issubclass(found, Analyzer)):
        raise InputError(f"{name} is no analyzer; give a subclass of ascertain.analyze.Analyzer.")
    return found


def make(name: str, options: Mapping[str, Any]) -> Analyzer:
    """An analyzer with options as TOML or JSON gives them, checked; raises InputError for unknown names and wrong types."""
    kind = find(name)
    hints = get_type_hints(kind)
    known = {f.name: hints[f.name] for f in fields(kind)}
    given = {}
    for option, value in options.items():
        if option not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{name} has no option {option!r}; {there}.")
        given[option] = _fit(f"option {option} of {name}", value, known[option])
    return kind(**given)


def _fit(what: str, value: Any, wanted: Any) -> Any:
    """The value in the type that a field declares."""
    origin = get_origin(wanted)
    if origin is UnionType:
        kinds = [k for k in get_args(wanted) if k is not NoneType]
        return None if value is None else _fit(what, value, kinds[0])
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_fit(what, item, get_args(wanted)[0]) for item in value)
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        # Neither NaN nor infinity can be part of a key.
        if not abs(value) <= sys.float_info.max:
            raise InputError(f"{what} is not finite; give a number.")
        return float(value)
    if wanted in (int, bool, str) and type(value) is wanted:
        return value
    raise InputError(f"{what} is {value!r}, wanted is {getattr(wanted, '__name__', wanted)}; correct it.")


def options_of(analyzer: Analyzer) -> dict[str, Any]:
    """The options as plain JSON values, defaults included: they are part of the key of a result."""
    found = {f.name: getattr(analyzer, f.name) for f in fields(analyzer)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


_WORDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema(kind: type[Analyzer]) -> dict[str, Any]:
    """JSON schema of the options."""
    hints = get_type_hints(kind)
    properties = {f.name: _type(hints[f.name]) | _default(f.default) for f in fields(kind)}
    return {"type": "object", "title": kind.called(), "properties": properties, "additionalProperties": False}


def _type(wanted: Any) -> dict[str, Any]:
    if get_origin(wanted) is UnionType:
        kinds = [k for k in get_args(wanted) if k is not NoneType]
        return {"anyOf": [*(_type(k) for k in kinds), {"type": "null"}]}
    if get_origin(wanted) is tuple:
        return {"type": "array", "items": _type(get_args(wanted)[0])}
    return {"type": _WORDS[wanted]}


def _default(value: Any) -> dict[str, Any]:
    if value is MISSING:
        return {}
    return {"default": list(value) if isinstance(value, tuple) else value}


def explain(kind: type[Analyzer]) -> str:
    """What it measures, how to read it, formula, what its numbers are worth, options, references."""
    about = (kind.__doc__ or "").strip()
    needs = ", ".join(sorted(kind.needs)) or "nothing"
    uses = ", ".join(sorted(kind.uses - kind.needs))
    options = [f"  {f.name} = {f.default!r}" for f in fields(kind)] or ["  none"]
    parts = [
        f"{kind.called()}: {kind.title}",
        about,
        kind.meaning,
        f"Formula: {kind.formula}" if kind.formula else "",
        f"Evidence: {kind.evidence}" if kind.evidence else "",
        f"Needs beside the model: {needs}{f'; uses {uses} where given' if uses else ''}.",
        "\n".join(["Options:", *options]),
        "\n".join(["References:", *(f"  {r}" for r in kind.references)]) if kind.references else "",
    ]
    return "\n\n".join(p for p in parts if p)
