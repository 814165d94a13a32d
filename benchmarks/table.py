"""Tables of ratios: collected while the suite runs, printed at its end, written as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as RichTable

Cell = str | float | int | None


@dataclass
class Table:
    """Rows of cells under the columns that the first row names."""

    title: str
    note: str = ""
    rows: list[dict[str, Cell]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def add(self, **cells: Cell) -> None:
        """One row; an underscore in a column's name is printed as a space."""
        self.rows.append({name.replace("_", " "): cell for name, cell in cells.items()})


@dataclass(frozen=True)
class Target:
    """A ratio next to what was promised of it."""

    what: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    @property
    def met(self) -> bool:
        above = self.at_least is None or self.ratio >= self.at_least
        return above and (self.at_most is None or self.ratio <= self.at_most)

    def cells(self) -> dict[str, Cell]:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return {
            "what": self.what,
            "measured": self.ratio,
            "target": bound,
            "met": "yes" if self.met else "NO",
            "aim": "" if self.aim is None else f"<= {self.aim:g}",
        }


@dataclass
class Report:
    """Everything that one run of the suite measured."""

    tables: dict[str, Table] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def table(self, title: str, note: str = "") -> Table:
        """The table of that title, made when first asked for."""
        return self.tables.setdefault(title, Table(title, note))

    def all_tables(self) -> list[Table]:
        targets = Table("Targets", "ratios of CPU time, medians within interleaved rounds")
        targets.rows = [target.cells() for target in self.targets]
        return [*self.tables.values(), *([targets] if self.targets else [])]

    def machine(self) -> dict[str, Cell]:
        return {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "load before": self.load_before,
            "load after": os.getloadavg()[0],
        }

    def show(self, console: Console) -> None:
        for table in self.all_tables():
            rich = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
            for column in table.columns:
                number = any(isinstance(row.get(column), int | float) for row in table.rows)
                rich.add_column(column, justify="right" if number else "left")
            for row in table.rows:
                rich.add_row(*(_print(row.get(column)) for column in table.columns))
            console.print()
            console.print(rich)

    def write(self, folder: Path) -> list[Path]:
        """ratios.json (numbers as measured) and ratios.md; the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = self.machine()
        content = {
            "machine": machine,
            "tables": [asdict(table) for table in self.tables.values()],
            "targets": [asdict(target) | {"met": target.met} for target in self.targets],
        }
        lines = ["# Measured ratios", "", ", ".join(f"{key} {_print(value)}" for key, value in machine.items()), ""]
        for table in self.all_tables():
            lines += [f"## {table.title}", ""] + ([table.note, ""] if table.note else [])
            lines += [_line(table.columns), _line(["---"] * len(table.columns))]
            lines += [_line([_print(row.get(column)) for column in table.columns]) for row in table.rows]
            lines.append("")
        paths = [folder / "ratios.json", folder / "ratios.md"]
        for path, text in zip(paths, (json.dumps(content, indent=1) + "\n", "\n".join(lines)), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def _print(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
