"""What a comparison leaves for people: one self-contained page, Markdown for documentation, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import equilip
from equilip.compare.families import KINDS
from equilip.compare.results import Comparison, Result
from equilip.compare.tables import COST_LEGEND, LEGEND, accuracy, cost, sentences
from equilip.form import write_whole
from equilip.paper.tables import Table
from equilip.report.plots import STYLE, Axis, Points, scatter

FORMAT = "equilip.comparison/1"
_ICON = '<link rel="icon" href="data:,">'
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Account:
    """What a comparison came to. command: what repeats it. now: when it was written down, UTC."""

    found: Comparison
    command: str
    now: datetime

    @property
    def title(self) -> str:
        return f"{len(self.found.results)} families of networks on {self.found.settings.data}"

    @property
    def circumstances(self) -> str:
        """Date, seeds and versions, in one line."""
        import torch

        seeds = ", ".join(map(str, self.found.settings.seeds))
        many = "seeds" if self.found.settings.runs > 1 else "seed"
        return f"{self.now:%-d %B %Y}, {many} {seeds}, equilip {equilip.__version__}, torch {torch.__version__}"

    @property
    def terms(self) -> str:
        """On what terms the families were compared."""
        settings = self.found.settings
        return (
            f"About {settings.parameters:,} parameters and {settings.seconds:g} s of one core for every training, "
            f"batches of {settings.batch}, Adam at {settings.lr:g} (CLIP at its own rate) over one cycle. Families "
            "with a bound by construction have it at 1 per unit of raw input, and train with a margin for "
            f"ε = {settings.loss_eps:g} at temperature {settings.temperature:g}; so does plain + margin, without a "
            "bound of its own. No family was tuned."
        )

    @property
    def warning(self) -> str | None:
        limit = self.found.settings.limit
        return None if limit is None else f"On the first {limit} samples of each part of the data only."

    def tables(self) -> list[tuple[str, str, Table]]:
        """Each table with its title and what its columns mean."""
        settings = self.found.settings
        return [
            ("Accuracy and robustness", LEGEND.format(attacked=settings.attacked), accuracy(self.found)),
            ("What it costs", COST_LEGEND.format(batch=settings.batch), cost(self.found)),
        ]

    def as_table(self) -> dict[str, Any]:
        """The whole as plain values; without spreads, which follow from the runs."""
        settings = self.found.settings
        return {
            "format": FORMAT,
            "date": self.now.isoformat(timespec="seconds"),
            "command": self.command,
            "settings": dict(settings.as_table()),
            "families": [result.as_table(settings.seeds) for result in self.found.results],
            "front": [
                {"eps": eps, "families": [result.family.name for result in self.found.front(index)]}
                for index, eps in enumerate(settings.eps)
            ],
            "absent": [{"family": label, "reason": reason} for label, reason in self.found.absent],
        }


def account(found: Comparison, command: str) -> Account:
    """What the comparison came to, as of now."""
    return Account(found, command, datetime.now(UTC))


def write(found: Account, out: Path) -> Path:
    """Write the page, Markdown and JSON into ``out``, each whole or not at all; the page's path."""
    write_whole(out / "comparison.md", markdown(found).encode())
    content = json.dumps(found.as_table(), indent=1, allow_nan=False) + "\n"
    write_whole(out / "comparison.json", content.encode())
    page = out / "comparison.html"
    write_whole(page, html(found).encode())
    return page


def markdown(found: Account) -> str:
    """The tables, to paste into documentation."""
    parts = [f"`{found.command}`: {found.circumstances}.", found.terms]
    parts += [found.warning] if found.warning else []
    parts += ["\n".join(f"- {sentence}" for sentence in sentences(found.found))]
    for _, legend, table in found.tables():
        parts += [table.markdown(), legend]
    return "\n\n".join(part for part in parts if part) + "\n"


def trade_off(found: Comparison, index: int) -> str:
    """Clean over certified accuracy at eps[index]: a point for each family, the best of them joined."""
    eps = found.settings.eps[index]

    def points(name: str, some: Sequence[Result], colour: int, *, front: bool = False) -> Points:
        return Points(
            name,
            [100 * result.spread(lambda one: one.certified[index]).mean for result in some],
            [100 * result.spread(lambda one: one.clean).mean for result in some],
            [] if front else [result.family.label for result in some],
            colour,
            joined=front,
        )

    groups = [points("unbeaten", found.front(index), 7, front=True)]
    for colour, kind in enumerate(KINDS):
        some = [result for result in found.results if result.family.kind == kind]
        groups += [points(kind, some, colour)] if some else []
    return scatter(
        f"Clean accuracy over certified accuracy at ε = {eps:g}",
        Axis(f"certified accuracy at ε = {eps:g}, %"),
        Axis("clean accuracy, %"),
        groups,
    )


def html(found: Account) -> str:
    """The page; it loads nothing from anywhere and runs no scripts."""
    style = STYLE + resources.files("equilip.report").joinpath("page.css").read_text(encoding="utf-8")
    notices = [found.warning] if found.warning else []
    notices += sentences(found.found)
    said = "".join(f"<li{' class=bad' if text.startswith('BUG') else ''}>{escape(text)}</li>" for text in notices)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">{_ICON}',
        f"<title>{escape(found.title)}</title><style>{style}</style></head><body>",
        f'<header><p class="mark">equilip</p><h1>{escape(found.title)}</h1>',
        f'<p class="note">{escape(found.circumstances)}. This page is complete in itself: it loads nothing and runs no '
        "scripts.</p></header><main>",
        f'<ul class="notices">{said}</ul>' if said else "",
        f'<section class="card"><h2>On what terms</h2><p>{escape(found.terms)}</p>'
        f'<p class="note">Repeat it: <code class="command">{escape(found.command)}</code></p></section>',
    ]
    for title, legend, table in found.tables():
        parts.append(
            f'<section class="card" style="margin-top:1rem"><h2>{escape(title)}</h2>{_table(table)}'
            f'<p class="note">{escape(legend)}</p></section>'
        )
    parts.append('<div class="cards">')
    for index, eps in enumerate(found.found.settings.eps):
        parts.append(
            f'<section class="card"><h2>The choice at ε = {eps:g}</h2><figure>{trade_off(found.found, index)}'
            "<figcaption>Up is more accurate, right is more robust. Joined: families that no other beats in both. "
            "Means over the seeds.</figcaption></figure></section>"
        )
    return "\n".join([*(part for part in parts if part), "</div></main></body></html>"]) + "\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{_broken(cell)}</th>" for cell in table.columns)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="compare"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _broken(cell: str) -> str:
    """A header in two lines where it has two parts."""
    return "<br>".join(escape(part) for part in cell.split(", "))
