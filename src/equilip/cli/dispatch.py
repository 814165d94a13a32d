"""From a command line to a command's file, its options and its result."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol

import equilip
from equilip.cli import commands
from equilip.cli.options import Parser, add_common
from equilip.cli.output import Output
from equilip.errors import ConfigError
from equilip.train.toml import nearest

USAGE = "equilip COMMAND [options]"


class Command(Protocol):
    """What a file in ``commands`` holds; the first line of its docstring is its line in ``equilip --help``."""

    __doc__: str | None

    def arguments(self, parser: Parser) -> None:
        """Add the command's own options; the common ones are there already, save those it adds itself."""

    def run(self, options: argparse.Namespace, output: Output) -> int:
        """Do it, show the result through ``output``, and return the exit status."""


def names() -> dict[str, str]:
    """Every command and the module that holds it (a trailing underscore avoids Python's keywords)."""
    return {
        module.name.rstrip("_"): f"{commands.__name__}.{module.name}"
        for module in pkgutil.iter_modules(commands.__path__)
    }


def load(module: str) -> Command:
    """The command in that module."""
    return importlib.import_module(module)


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name."""
    known = names()
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(overview(known))
        return 0
    if first == "--version":
        print(equilip.__version__)
        return 0
    if first not in known:
        what = "option" if first.startswith("-") else "command"
        raise ConfigError(f"unknown {what} {first!r}; {nearest(first, known)}")
    command = load(known[first])
    parser = Parser(prog=f"equilip {first}", description=command.__doc__)
    command.arguments(parser)
    add_common(parser)
    if any(argument in ("-h", "--help") for argument in arguments[1:]):
        print(parser.format_help(), end="")
        return 0
    options = parser.parse(arguments[1:])
    return command.run(options, Output(as_json=options.json))


def overview(known: dict[str, str]) -> str:
    """The text of ``equilip --help``."""
    lines = [f"usage: {USAGE}", "", (equilip.__doc__ or "").splitlines()[0], "", "commands:"]
    width = max(len(name) for name in known)
    for name, module in sorted(known.items()):
        summary = (load(module).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:<{width}}  {summary}")
    lines += ["", "`equilip COMMAND --help` lists the options of a command."]
    return "\n".join(lines)
