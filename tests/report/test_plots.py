"""Charts: numbers stand where the axes say, what users wrote stays text, odd data draws what can be drawn."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.report.plots import Axis, Band, Line, Points, line_chart, scatter, standalone
from equilip.report.scales import scale, text

HOSTILE = '<script>alert("x")</script>&\''


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def circles(svg: str) -> list[tuple[float, float]]:
    """Where the points are, those of the legend left out."""
    found = [element for element in parsed(svg).iter("circle") if element.find("title") is not None]
    return [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in found]


def ticks(svg: str, anchor: str) -> list[tuple[float, float]]:
    """Number and place of the ticks of an axis: "middle" for x, "end" for y."""
    found = [
        each for each in parsed(svg).iter("text") if each.get("class") == "tick" and each.get("text-anchor") == anchor
    ]
    return [(float(each.text or ""), float(each.get("x" if anchor == "middle" else "y", ""))) for each in found]


@pytest.mark.parametrize("log", [False, True])
def test_points_stand_where_the_axes_say(log: bool) -> None:
    x, y = [0.5, 1.0, 20.0, 90.0], [3.0, 0.02, 1.0, 0.5]
    svg = scatter("points", Axis("x", log=log), Axis("y", log=log), [Points("p", x, y)])
    for anchor, values, column in (("middle", x, 0), ("end", y, 1)):
        (low, first), *_, (high, last) = ticks(svg, anchor)
        for value, place in zip(values, circles(svg), strict=True):
            bend = math.log10 if log else float
            share = (bend(value) - bend(low)) / (bend(high) - bend(low))
            assert place[column] == pytest.approx(first + share * (last - first), abs=0.3)


def test_a_line_breaks_where_there_is_no_number() -> None:
    line = Line("a", [0, 1, 2, 3, 4], [1.0, math.nan, 2.0, math.inf, 3.0])
    svg = line_chart("broken", Axis("x"), Axis("y"), [line])
    path = next(each for each in parsed(svg).iter("path") if each.find("title") is not None)
    assert (path.get("d") or "").count("M") == 3
    assert len(circles(svg)) == 3
    svg = line_chart("broken", Axis("x"), Axis("y", log=True), [Line("a", [0, 1, 2], [0.0, -1.0, 2.0])])
    assert len(circles(svg)) == 1


def test_what_users_wrote_stays_text() -> None:
    axis = Axis(HOSTILE)
    for svg in (
        line_chart(HOSTILE, axis, axis, [Line(HOSTILE, [0, 1], [0, 1])], [Band(HOSTILE, [0, 1], [0, 0], [1, 1])]),
        scatter(HOSTILE, axis, axis, [Points(HOSTILE, [0, 1], [0, 1], labels=(HOSTILE, HOSTILE))]),
    ):
        assert "<script" not in svg
        assert not list(parsed(svg).iter("script"))
        assert HOSTILE in "".join(parsed(svg).itertext())


def test_nothing_to_draw() -> None:
    for lines in ([], [Line("empty", [], [])], [Line("none", [1.0], [math.nan])]):
        assert len(ticks(line_chart("nothing", Axis("x"), Axis("y"), lines), "end")) >= 2
    assert len(ticks(scatter("nothing", Axis("x", log=True), Axis("y", log=True), []), "end")) >= 2


def test_a_file_by_itself() -> None:
    svg = standalone(line_chart("a > b", Axis("x"), Axis("y"), [Line("a", [0, 1], [0, 1])]))
    root = parsed(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "a > b"
    assert "prefers-color-scheme:dark" in (root[0].text or "")


def test_a_long_legend_is_broken_into_rows() -> None:
    lines = [Line(f"a network with a long name, number {k}", [0, 1], [k, 1], colour=k) for k in range(12)]
    root = parsed(line_chart("many", Axis("x"), Axis("y"), lines))
    assert len({each.get("transform") for each in root.iter("g")}) == 12
    assert float((root.get("viewBox") or "").split()[3]) > 250 + 12 * 15
    styles = {each.get("class") for each in root.iter("path") if (each.get("class") or "").startswith("line")}
    assert len(styles) == 12


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=6),
    st.sampled_from([(None, None), (0.0, None), (0.0, 1.0), (None, 100.0)]),
    st.booleans(),
)
def test_every_axis_has_places_for_its_values(
    values: list[float], limits: tuple[float | None, float | None], log: bool
) -> None:
    found = scale(Axis("a", limits=limits, log=log), values, 0.0, 100.0, 5)
    assert found.low < found.high
    for value in values:
        place = found.place(value)
        if not math.isfinite(value) or (log and value <= 0):
            assert place is None
        else:
            assert place is not None
            assert -1e-6 <= place <= 100 + 1e-6
    assert 1 <= len(found.ticks) <= 20
    for tick in found.ticks:
        assert -1e-6 <= (found.place(tick) or 0.0) <= 100 + 1e-6
    for end, limit in ((found.low, limits[0]), (found.high, limits[1])):
        if limit is not None and not log and not any(math.isfinite(v) and not 0 <= v <= 1 for v in values):
            assert end == limit


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.1 + 0.2, "0.3"), (1e-8, "1e-8"), (2.5e-7, "2.5e-7"), (1500, "1500"), (1e6, "1e6"), (-0.25, "-0.25")],
)
def test_numbers_in_few_characters(value: float, shown: str) -> None:
    assert text(value) == shown
