"""What a command shows: tables and progress on a terminal, plain lines elsewhere, or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


class Output:
    """Where a command's words go. With ``as_json`` everything for people goes to standard error, so that
    standard output holds one JSON object and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.stream: TextIO = sys.stderr if as_json else sys.stdout

    @property
    def terminal(self) -> bool:
        """Whether somebody is watching."""
        return self.stream.isatty()

    def line(self, text: str) -> None:
        """One line for people."""
        print(text, file=self.stream, flush=True)

    def result(self, values: Mapping[str, Any]) -> None:
        """The JSON object of a command; nothing without ``--json``."""
        if self.as_json:
            print(json.dumps(_finite(values), allow_nan=False))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is aligned on the left, the others on the right. Columns without names
        have no header."""
        if self.terminal:
            from rich.box import SIMPLE
            from rich.console import Console
            from rich.table import Table

            self.line(title)
            table = Table(box=SIMPLE, show_header=any(columns))
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left")
            for row in rows:
                table.add_row(*row)
            Console(file=self.stream).print(table)
            return
        widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
        self.line(title)
        for line in (columns, *rows) if any(columns) else rows:
            cells = [
                f"{cell:>{width}}" if i else f"{cell:<{width}}"
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            self.line("  " + "  ".join(cells).rstrip())

    def facts(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A list of named values."""
        self.table(title, ("", ""), rows)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """A bar on a terminal, a line per step elsewhere."""
        if not self.terminal:
            yield Progress(self.line)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=Console(file=self.stream)) as bar:
            task = bar.add_task(title, total=total, note="")
            yield Progress(lambda note: bar.update(task, advance=1, note=note), brief=True)


class Progress:
    """Something with steps, each shown by ``show``; beside a bar there is room for few words only."""

    def __init__(self, show: Callable[[str], None], brief: bool = False) -> None:
        self._show, self._brief = show, brief

    def step(self, note: str, brief: str) -> None:
        """One step is done; ``note`` says what it showed, ``brief`` the same in a few words."""
        self._show(brief if self._brief else note)


def _finite(value: Any) -> Any:
    """The same with null for what JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
