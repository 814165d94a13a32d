"""Command-line options: a parser that fails in one sentence, the options every command has, and options made
from the fields of a dataclass.

argparse, because it starts in 25 ms where jsonargparse takes 110 ms and writes its own multi-line errors;
what we would use of the latter is the hundred lines below.
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from equilip.errors import ConfigError
from equilip.train.toml import nearest


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing a usage and leaving; options are never abbreviated."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options; ConfigError names the nearest known one for each that is unknown."""
        options, unknown = self.parse_known_args(arguments)
        for argument in unknown:
            if argument.startswith("-"):
                name = argument.split("=")[0]
                raise ConfigError(f"unknown option {name}; {nearest(name, self.known())}")
        if unknown:
            raise ConfigError(f"unexpected argument {unknown[0]!r}; see {self.prog} --help")
        return options

    def known(self) -> list[str]:
        """Every long option."""
        return [option for option in self._option_string_actions if option.startswith("--")]

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message if message.endswith("?") else f"{message}; see {self.prog} --help")


def add_common(parser: Parser) -> None:
    """The options of every command; one that the command has added itself keeps its own meaning."""
    present = set(parser.known())
    group = parser.add_argument_group("common options")

    def add(name: str, **keywords: Any) -> None:
        if name not in present:
            group.add_argument(name, **keywords)

    add("--json", action="store_true", help="print one JSON object on standard output, and nothing else")
    add("--seed", type=seed, default=0, metavar="N", help="seed of everything random (default: 0)")
    add("--device", default="cpu", help="where to compute: cpu, cuda, ... (default: cpu)")
    add("--debug", action="store_true", help="show the traceback of an error")


def add_data(parser: Parser, *, limit: bool = True) -> None:
    """The options of every command that reads data."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with the data set's files; without it they are downloaded once",
    )
    if limit:
        group.add_argument("--limit", type=count, metavar="N", help="use only the first N samples of each part")


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def seed(text: str) -> int:
    """A whole number that every generator of random numbers takes."""
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return value


def one_of(known: Iterable[str]) -> Callable[[str], str]:
    """A type for options with few values, whose error names the nearest."""
    known = tuple(known)

    def check(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"unknown value {text!r}; {nearest(text, known)}")
        return text

    return check


def flag(name: str) -> str:
    """The option of a field: step_epochs is --step-epochs."""
    return f"--{name.replace('_', '-')}"


def add_fields(parser: Parser, config: type) -> None:
    """One option for every field of a dataclass; those not given are absent from the namespace, so that a
    configuration file can have them."""
    hints = typing.get_type_hints(config)
    group = parser.add_argument_group("configuration (also keys of the --config file)")
    for item in fields(config):
        hint = hints[item.name]
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
        explanation = item.metadata.get("help", "")
        if hint is bool:
            switch = argparse.BooleanOptionalAction
            group.add_argument(flag(item.name), action=switch, default=argparse.SUPPRESS, help=explanation)
            continue
        several: dict[str, Any] = {}
        if typing.get_origin(hint) is tuple:
            hint, several = typing.get_args(hint)[0], {"nargs": "+"}
        choices = item.metadata.get("choices") or ()
        default = "" if item.default in (None, ()) else f" (default: {item.default})"
        group.add_argument(
            flag(item.name),
            **several,
            type=one_of(choices) if choices else hint,
            default=argparse.SUPPRESS,
            metavar="|".join(choices) if 0 < len(choices) < 4 else {int: "N", float: "X"}.get(hint, "NAME"),
            help=explanation + default,
        )


def chosen(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of the dataclass that the command line names."""
    given = vars(options)
    return {item.name: given[item.name] for item in fields(config) if item.name in given}
