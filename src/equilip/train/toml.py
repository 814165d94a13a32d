"""Writing TOML, and turning what was read into dataclasses with every key and type checked.

Python reads TOML itself (tomllib) and does not write it. Ours holds only tables of plain values, and every
string, number and list of them survives the round trip.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from equilip.errors import ConfigError

C = TypeVar("C")
Plain = str | int | float | bool | tuple[Any, ...] | list[Any]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError when it is missing or no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def write(tables: Mapping[str, Plain | Mapping[str, Plain | None] | None]) -> str:
    """TOML text; values of None are left out, mappings become tables after the plain values."""
    lines = [
        f"{_key(key)} = {_value(value)}"
        for key, value in tables.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]"] if lines else [f"[{_key(name)}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _value(key)


def _value(value: Plain) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML string, save that TOML also wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple() | list():
            return f"[{', '.join(_value(item) for item in value)}]"
    raise ConfigError(f"{value!r} of type {type(value).__name__} cannot be written as TOML")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says what was probably meant, or what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def build(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A dataclass from a table. ConfigError names unknown keys (and the nearest known one), missing keys and
    values of the wrong type; ``where`` says where the table was read."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    cast = {key: _cast(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return kind(**cast)
    except TypeError:
        missing = [
            name
            for name, field in known.items()
            if name not in values and field.default is MISSING and field.default_factory is MISSING
        ]
        raise ConfigError(f"{where}: lacks {', '.join(missing)}") from None


def _cast(value: Any, hint: Any, what: str) -> Any:
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return _cast(value, options[0], what)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(_cast(item, typing.get_args(hint)[0], what) for item in value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    name = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    raise ConfigError(f"{what} is {value!r}; expected {name.get(getattr(hint, '__name__', ''), 'a list')}")
