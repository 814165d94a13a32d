"""Charts as SVG without scripts: lines, shaded bands, points. They scale with the page, and follow its scheme.

An SVG that stands in a page takes its colours from :data:`STYLE`, which the page includes once; :func:`standalone`
makes one that stands by itself, in a file. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from equilip.report.scales import Axis, Scale, scale, text

__all__ = ["STYLE", "Axis", "Band", "Line", "Points", "line_chart", "scatter", "standalone"]

#: Colours in the light and in the dark scheme; further ones begin again, in another pattern.
_COLOURS = (
    ("#1f66d1", "#6ea8ff"),
    ("#c2500a", "#ff9f5a"),
    ("#0b7f5b", "#45cfa0"),
    ("#8a3fc4", "#c595ff"),
    ("#b3266b", "#ff86bd"),
    ("#0d7c93", "#53cbe3"),
    ("#7d6a00", "#dcc63f"),
    ("#5b6472", "#aab4c2"),
)

_WIDTH = 480.0
_HEIGHT = 250.0
_LEFT, _RIGHT, _BOTTOM = 50.0, 16.0, 48.0
#: A character's width and a line's height, in the size that small screens have.
_CHARACTER, _LEADING = 9.4, 21.0
#: Up to this many points a line has a mark at each.
_MARKED = 24


@dataclass(frozen=True)
class Line:
    """y over x, joined; where either is not finite (or not positive, on a logarithmic axis) the line is broken.

    colour: which of the colours, from 0. dashed: for what belongs to another line of the same colour.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """The area between ``low`` and ``high`` over x, shaded."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Points:
    """Points of one kind. labels: one for each, written beside it, or none. joined: with a thin line in their order."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    colour: int = 0
    joined: bool = False


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], bands: Sequence[Band] = ()) -> str:
    """Lines over bands. ``title`` is for those who cannot see it; what is seen is the axes' labels and a legend."""
    frame = _Frame.around(
        x,
        y,
        [*(value for line in lines for value in line.x), *(value for band in bands for value in band.x)],
        [*(value for line in lines for value in line.y), *(v for band in bands for v in (*band.low, *band.high))],
        [(line.name, _mark(line.colour, line.dashed)) for line in lines]
        + [(band.name, _swatch(band.colour)) for band in bands],
    )
    return frame.svg(title, [*(_band(frame, band) for band in bands), *(_line(frame, line) for line in lines)])


def scatter(title: str, x: Axis, y: Axis, groups: Sequence[Points]) -> str:
    """Points, with their labels. ``title`` as in :func:`line_chart`."""
    frame = _Frame.around(
        x,
        y,
        [value for group in groups for value in group.x],
        [value for group in groups for value in group.y],
        [(group.name, _dot(group.colour)) for group in groups],
    )
    return frame.svg(title, [_group(frame, group) for group in groups] + _labels(frame, groups))


def standalone(svg: str) -> str:
    """The same as the content of an .svg file."""
    size = f' xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH:g}"'
    return svg.replace("<svg", f"<svg{size}", 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"


@dataclass(frozen=True)
class _Frame:
    """The axes of a chart, and what its legend says: names with their marks."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    legend: tuple[tuple[str, str], ...]
    top: float

    @classmethod
    def around(
        cls, x: Axis, y: Axis, xs: Iterable[float], ys: Iterable[float], names: Sequence[tuple[str, str]]
    ) -> _Frame:
        named = tuple((name, mark) for name, mark in names if name)
        top = 30.0 + (len(_rows(named)) * _LEADING + 6.0 if named else 0.0)
        return cls(
            x=scale(x, xs, _LEFT, _WIDTH - _RIGHT, 6),
            y=scale(y, ys, top + _HEIGHT, top, 5),
            x_label=x.label,
            y_label=y.label,
            legend=named,
            top=top,
        )

    @property
    def height(self) -> float:
        return self.top + _HEIGHT + _BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float] | None:
        """Where a point is; None where it has no place."""
        across, down = self.x.place(x), self.y.place(y)
        return None if across is None or down is None else (across, down)

    def svg(self, title: str, content: Sequence[str]) -> str:
        parts = [
            f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {self.height:g}" role="img" aria-label="{escape(title)}">',
            *self._legend(),
            *self._grid(),
            *content,
            "</svg>",
        ]
        return "\n".join(parts)

    def _grid(self) -> list[str]:
        right, bottom = _WIDTH - _RIGHT, self.top + _HEIGHT
        parts = [f'<text class="label" x="4" y="{self.top - 12:.1f}">{escape(self.y_label)}</text>']
        for tick in self.y.ticks:
            y = self.y.place(tick)
            parts.append(f'<path class="grid" d="M{_LEFT:g} {y:.1f}H{right:g}"/>')
            parts.append(f'<text class="tick" text-anchor="end" x="{_LEFT - 7:g}" y="{y or 0:.1f}" dy=".35em">')
            parts[-1] += f"{text(tick)}</text>"
        for tick in self.x.ticks:
            x = self.x.place(tick)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom:.1f}v5"/>')
            parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 20:.1f}">')
            parts[-1] += f"{text(tick)}</text>"
        parts.append(f'<path class="axis" d="M{_LEFT:g} {bottom:.1f}H{right:g}"/>')
        across = (_LEFT + right) / 2
        parts.append(f'<text class="label" text-anchor="middle" x="{across:g}" y="{bottom + 41:.1f}">')
        parts[-1] += f"{escape(self.x_label)}</text>"
        return parts

    def _legend(self) -> list[str]:
        parts = []
        for number, row in enumerate(_rows(self.legend)):
            x, y = 4.0, 12.0 + number * _LEADING
            for name, mark in row:
                parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{mark}')
                parts[-1] += f'<text class="name" x="26" y="0" dy=".35em">{escape(name)}</text></g>'
                x += _legend_width(name)
        return parts


def _rows(legend: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The legend, broken into rows that fit."""
    rows: list[list[tuple[str, str]]] = []
    used = math.inf
    for entry in legend:
        width = _legend_width(entry[0])
        if used + width > _WIDTH:
            rows.append([])
            used = 4.0
        rows[-1].append(entry)
        used += width
    return rows


def _legend_width(name: str) -> float:
    return 26 + _CHARACTER * len(name) + 16


def _classes(kind: str, colour: int) -> str:
    again = " again" if colour // len(_COLOURS) % 2 else ""
    return f"{kind} c{colour % len(_COLOURS)}{again}"


def _mark(colour: int, dashed: bool) -> str:
    return f'<path class="{_classes("line", colour)}{" dashed" if dashed else ""}" d="M0 0H20"/>'


def _swatch(colour: int) -> str:
    return f'<rect class="{_classes("band", colour)}" x="0" y="-6" width="20" height="12" rx="2"/>'


def _dot(colour: int) -> str:
    return f'<circle class="{_classes("dot", colour)}" cx="10" cy="0" r="4.5"/>'


def _hover(name: str, x: float, y: float) -> str:
    return f"<title>{escape(name)}: {text(x)}, {text(y)}</title>"


def _line(frame: _Frame, line: Line) -> str:
    style = _classes("line", line.colour) + (" dashed" if line.dashed else "")
    path, dots, pen = [], [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        place = frame.at(x, y)
        if place is None:
            pen = "M"
            continue
        path.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
        if len(line.x) <= _MARKED:
            dot = f'<circle class="{_classes("dot", line.colour)}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="2.6">'
            dots.append(f"{dot}{_hover(line.name, x, y)}</circle>")
    return f'<path class="{style}" d="{"".join(path)}"><title>{escape(line.name)}</title></path>{"".join(dots)}'


def _band(frame: _Frame, band: Band) -> str:
    edges = []
    for x, low, high in zip(band.x, band.low, band.high, strict=True):
        below, above = frame.at(x, low), frame.at(x, high)
        if below is not None and above is not None:
            edges.append((below, above))
    around = [above for _, above in edges] + [below for below, _ in reversed(edges)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in around)
    style = _classes("band", band.colour)
    return f'<polygon class="{style}" points="{points}"><title>{escape(band.name)}</title></polygon>'


def _group(frame: _Frame, group: Points) -> str:
    parts, path, pen = [], [], "M"
    labels = group.labels or [group.name] * len(group.x)
    for x, y, label in zip(group.x, group.y, labels, strict=True):
        place = frame.at(x, y)
        if place is None:
            pen = "M"
            continue
        path.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
        dot = f'<circle class="{_classes("dot", group.colour)}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="4.5">'
        parts.append(f"{dot}{_hover(label, x, y)}</circle>")
    if group.joined:
        parts.insert(0, f'<path class="{_classes("line", group.colour)} thin" d="{"".join(path)}"/>')
    return "".join(parts)


def _labels(frame: _Frame, groups: Sequence[Points]) -> list[str]:
    """The labels of points, each beside its own where no earlier one stands; left out where there is no room."""
    taken = [
        (place[0] - 5, place[1] - 5, place[0] + 5, place[1] + 5)
        for group in groups
        for x, y in zip(group.x, group.y, strict=True)
        if (place := frame.at(x, y)) is not None
    ]
    parts = []
    for group in groups:
        for x, y, label in zip(group.x, group.y, group.labels, strict=False):
            place = frame.at(x, y)
            if place is None:
                continue
            width = _CHARACTER * len(label)
            for anchor, left, right, dx, dy in (
                ("start", 8.0, 8.0 + width, 8.0, 0.0),
                ("end", -8.0 - width, -8.0, -8.0, 0.0),
                ("middle", -width / 2, width / 2, 0.0, -14.0),
                ("middle", -width / 2, width / 2, 0.0, 15.0),
            ):
                box = (place[0] + left, place[1] + dy - 7, place[0] + right, place[1] + dy + 7)
                inside = box[0] >= _LEFT and box[2] <= _WIDTH and box[1] >= frame.top - 10
                if not inside or any(_overlap(box, other) for other in taken):
                    continue
                taken.append(box)
                spot = f'text-anchor="{anchor}" x="{place[0] + dx:.1f}" y="{place[1] + dy:.1f}" dy=".35em"'
                parts.append(f'<text class="point" {spot}>{escape(label)}</text>')
                break
    return parts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _variables(dark: bool) -> str:
    return "".join(f"--c{number}:{pair[dark]};" for number, pair in enumerate(_COLOURS))


#: What charts look like, for the light scheme and the dark one.
STYLE = (
    f".chart{{{_variables(False)}--ink:#1c2430;--quiet:#5a6572;--rule:#dde2e8;"
    "display:block;width:100%;height:auto;font:12px system-ui,sans-serif}"
    f"@media(prefers-color-scheme:dark){{.chart{{{_variables(True)}--ink:#e6eaf0;--quiet:#a3adba;--rule:#333c48}}}}"
    + "".join(f".chart .c{number}{{--c:var(--c{number})}}" for number in range(len(_COLOURS)))
    + ".chart text{fill:var(--quiet)}.chart .name,.chart .point{fill:var(--ink)}"
    ".chart .grid{stroke:var(--rule);fill:none}.chart .axis{stroke:var(--quiet);fill:none}"
    ".chart .line{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round;stroke-linecap:round}"
    ".chart .line.again{stroke-dasharray:1 4}.chart .line.dashed{stroke-dasharray:6 4}"
    ".chart .line.thin{stroke-width:1;opacity:.6}"
    ".chart .dot{fill:var(--c)}.chart .dot.again{fill:none;stroke:var(--c);stroke-width:2}"
    ".chart .band{fill:var(--c);opacity:.22}"
    "@media(max-width:600px){.chart{font-size:16px}}"
)
