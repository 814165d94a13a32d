"""What an experiment leaves for people: one self-contained page, its figures as files, and Markdown with the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import equilip
from equilip.form import write_whole
from equilip.paper import linf
from equilip.paper.charts import charts
from equilip.paper.experiment import Experiment, LinfMeasures
from equilip.paper.linf import LinfResult
from equilip.paper.results import Result, collect
from equilip.paper.tables import Table, fast_gradient, overview, verdicts
from equilip.report.plots import STYLE, standalone

FORMAT = "equilip.reproduction/1"

_STYLE = """
:root{color-scheme:light dark}
body{margin:0 auto;max-width:60rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:#1c2430;background:#fff}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde2e8}
th:first-child,td:first-child{text-align:left}
td{white-space:nowrap}
.wide{overflow-x:auto}
code{overflow-wrap:anywhere}
figure{margin:1.5rem 0;max-width:40rem}
@media(prefers-color-scheme:dark){body{color:#e6eaf0;background:#161b22}th,td{border-color:#333c48}}
"""

#: What the columns mean; the same on the page and in Markdown.
LEGEND = (
    "Slopes are with respect to the standardised input. What was found is rounded down, what is proved up. Each bound "
    "was proved for the stored numbers and checked by the stand-alone checker."
)
STEP_LEGEND = (
    "Errors on the last {n} test images after one step of ℓ2 size ε (standardised) along the gradient of the "
    "cross-entropy, cut off at pixels of 0 and 1; in brackets what was published."
)


@dataclass(frozen=True)
class Account:
    """What an experiment came to. command: what repeats it. now: when it was written down, UTC."""

    experiment: Experiment
    results: Sequence[Result] | Sequence[LinfResult]
    command: str
    now: datetime

    @property
    def whole(self) -> list[Result]:
        """The results of networks that were measured in l2."""
        return [result for result in self.results if isinstance(result, Result)]

    @property
    def boxed(self) -> list[LinfResult]:
        """The results of networks that were measured in the maximum norm."""
        return [result for result in self.results if isinstance(result, LinfResult)]

    @property
    def sentences(self) -> list[str]:
        """What is to be said before the tables."""
        return linf.verdicts(self.boxed) if self.boxed else verdicts(self.whole)

    @property
    def figures(self) -> dict[str, tuple[str, str]]:
        """The figures by the names of their files: what each shows, and its SVG."""
        return linf.charts(self.boxed) if self.boxed else charts(self.whole)

    @property
    def circumstances(self) -> str:
        """Date, seed and versions, in one line."""
        import torch

        seed = self.experiment.networks[0].config.seed
        return f"{self.now:%d %B %Y}, seed {seed}, equilip {equilip.__version__}, torch {torch.__version__}"

    @property
    def warning(self) -> str | None:
        """What must be known before the numbers are read."""
        limit = self.experiment.networks[0].config.limit
        if self.experiment.quick:
            return "A quick run: a few epochs, to see that everything works. Its numbers compare with nothing."
        if limit is not None:
            return f"On {limit} samples of each part of the data only: the numbers compare with nothing."
        return None

    def tables(self) -> list[tuple[str, Table]]:
        """Each table with what it shows."""
        measures = self.experiment.measures
        if isinstance(measures, LinfMeasures):
            return linf.tables(self.boxed)
        stepped = STEP_LEGEND.format(n=measures.stepped)
        return [(LEGEND, overview(self.whole)), (stepped, fast_gradient(self.whole))]

    def as_table(self) -> Mapping[str, object]:
        """The contents of reproduction.json."""
        return {
            "format": FORMAT,
            "experiment": self.experiment.name,
            "quick": self.experiment.quick,
            "date": self.now.isoformat(timespec="seconds"),
            "seed": self.experiment.networks[0].config.seed,
            "command": self.command,
            "verdicts": self.sentences,
            "networks": [result.as_table() for result in self.results],
        }


def account(experiment: Experiment, out: Path, command: str) -> Account:
    """What the experiment in ``out`` came to, as of now; errors as in :func:`equilip.paper.results.collect`."""
    kind = linf.collect if isinstance(experiment.measures, LinfMeasures) else collect
    return Account(experiment, kind(experiment, out), command, datetime.now(UTC))


def write(found: Account, out: Path) -> Path:
    """Write the page, the figures, Markdown and JSON into ``out``, each whole or not at all; the page's path."""
    for name, (_, svg) in found.figures.items():
        write_whole(out / f"{name}.svg", standalone(svg).encode())
    write_whole(out / "reproduction.md", markdown(found).encode())
    content = json.dumps(found.as_table(), indent=1, allow_nan=False) + "\n"
    write_whole(out / "reproduction.json", content.encode())
    page = out / "reproduction.html"
    write_whole(page, html(found).encode())
    return page


def markdown(found: Account) -> str:
    """The tables and the verdicts, to paste into documentation."""
    parts = [f"## {found.experiment.title}", f"`{found.command}`: {found.circumstances}."]
    parts += [found.warning] if found.warning else []
    parts += ["\n".join(f"- {sentence}" for sentence in found.sentences)]
    for legend, table in found.tables():
        parts += [legend, table.markdown()]
    return "\n\n".join(parts) + "\n"


def html(found: Account) -> str:
    """The page; it loads nothing from anywhere."""
    title = escape(found.experiment.title)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f"<p><code>{escape(found.command)}</code><br>{escape(found.circumstances)}</p>",
    ]
    if found.warning:
        parts.append(f"<p><strong>{escape(found.warning)}</strong></p>")
    parts.append("<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in found.sentences) + "</ul>")
    grey = "" if found.boxed else " Dashed or grey: published."
    figures = [
        f"<figure>{svg}<figcaption>{escape(caption)}.{grey}</figcaption></figure>"
        for caption, svg in found.figures.values()
    ]
    for legend, table in found.tables():
        parts.append(f'<p>{escape(legend)}</p><div class="wide">{_table(table)}</div>')
    return "\n".join([*parts, *figures, "</body></html>"]) + "\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
