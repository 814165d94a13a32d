"""The figures of an experiment, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from equilip.paper.results import Result
from equilip.report.plots import Axis, Line, Points, line_chart, scatter

_EPS = Axis("size of the gradient step, ℓ2, standardised input", (0.0, None))
_ERROR = Axis("test error, percent", (0.0, 100.0))


def charts(results: Sequence[Result]) -> dict[str, tuple[str, str]]:
    """The figures by the names of their files: what each shows, and its SVG."""
    bounded = [result for result in results if result.gamma is not None]
    others = [result for result in results if result.gamma is None]
    # One bounded network among the others, to compare with.
    middle = [result for result in bounded if result.gamma == 1.0]
    found = {"error-and-slope": ("Test error over the largest slope found", errors_over_slopes(results))}
    if bounded:
        found["fast-gradient-bounded"] = ("Error after one gradient step: networks with a bound", curves(bounded))
    if others:
        found["fast-gradient-others"] = (
            "Error after one gradient step: the other networks",
            curves([*middle, *others]),
        )
    return found


def errors_over_slopes(results: Sequence[Result]) -> str:
    """Test error over the largest slope found, ours and the published ones."""
    families: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda each: each.gamma is None):
        families.setdefault(result.network.family, []).append(result)
    groups = [
        Points(
            name,
            [result.largest_slope for result in some],
            [result.test_error_percent for result in some],
            [label(result) for result in some],
            colour,
            joined=len(some) > 1 and some[0].gamma is not None,
        )
        for colour, (name, some) in enumerate(families.items())
    ]
    published = [result for result in results if result.published is not None]
    if published:
        slopes = [result.published.largest_slope for result in published if result.published is not None]
        errors = [result.published.test_error_percent for result in published if result.published is not None]
        # The labels would stand on ours: those who want to know which is which find it under the pointer.
        groups.append(Points("published", slopes, errors, [], 7))
    return scatter(
        "Test error over the largest slope found",
        Axis("largest slope found, standardised input", log=True),
        Axis("test error, percent", (0.0, None)),
        groups,
    )


def curves(results: Sequence[Result]) -> str:
    """Errors over the size of the gradient step; dashed what was published."""
    lines = []
    for colour, result in enumerate(results):
        lines.append(Line(label(result), result.eps, [100 * share for share in result.fast_gradient_error], colour))
        theirs = () if result.published is None else result.published.fast_gradient_error
        if theirs:
            shares = [100 * share for share in theirs]
            lines.append(Line("", result.eps, shares, colour, dashed=True))
    return line_chart("Error over the size of one gradient step; dashed: published", _EPS, _ERROR, lines)


def label(result: Result) -> str:
    """A short name for a legend."""
    return result.network.label.removeprefix("LBEN, ")
