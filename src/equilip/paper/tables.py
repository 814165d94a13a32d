"""The tables of an experiment: rows of text for a terminal, a page, or Markdown to paste into documentation."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from dataclasses import dataclass

from equilip.paper.results import ROOM, Result

#: Sizes of the gradient step that the second table shows, standardised: the nearest that were measured.
SIZES = (0.8, 1.5, 3.0, 6.0)

#: What stands where there is no number.
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A header and rows of cells; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def overview(results: Sequence[Result]) -> Table:
    """Test error, largest slope, bound and tightness of each network, each beside the published figure."""
    columns = (
        "network", "test error", "published", "largest slope found", "published", "proved bound",
        "found / proved", "found / γ", "published",
    )  # fmt: skip
    return Table(columns, tuple(_row(result) for result in results))


def _row(result: Result) -> tuple[str, ...]:
    published = result.published
    return (
        result.network.label,
        f"{result.test_error_percent:.2f} %",
        NONE if published is None else f"{published.test_error_percent:.2f} %",
        # What is found is rounded down and what is proved up, so that both hold as they are shown.
        digits_below(result.largest_slope),
        NONE if published is None else f"{published.largest_slope:.4g}",
        NONE if result.proved is None else digits_above(result.proved),
        NONE if result.tightness is None else f"{digits_below(100 * result.tightness)} %",
        NONE if result.gamma is None else f"{digits_below(100 * result.largest_slope / result.gamma)} %",
        NONE if published is None or published.tightness is None else f"{100 * published.tightness:.1f} %",
    )


def fast_gradient(results: Sequence[Result]) -> Table:
    """Errors after a gradient step of some sizes, each beside the published one."""
    some = results[0].eps if results else ()
    chosen = sorted({min(range(len(some)), key=lambda k: abs(some[k] - size)) for size in SIZES}) if some else []
    rows = []
    for result in results:
        theirs = () if result.published is None else result.published.fast_gradient_error
        cells = [
            f"{100 * result.fast_gradient_error[k]:.1f} %" + (f" ({100 * theirs[k]:.1f} %)" if theirs else "")
            for k in chosen
        ]
        rows.append((result.network.label, *cells))
    return Table(("network", *(f"ε = {some[k]:g}" for k in chosen)), tuple(rows))


def verdicts(results: Sequence[Result]) -> list[str]:
    """One sentence for each thing that was to be reproduced, naming what was not."""
    compared = [result for result in results if result.error_reproduced is not None]
    above = [
        f"{result.network.label} (by {result.test_error_percent - result.published.test_error_percent:.2f} points)"
        for result in compared
        if result.error_reproduced is False and result.published is not None
    ]
    bounded = [result for result in results if result.tightness_reproduced is not None]
    looser = [
        f"{result.network.label} ({100 * (result.tightness or 0.0):.1f} %)"
        for result in bounded
        if result.tightness_reproduced is False
    ]
    # Networks that differ from the published ones stand in the table, and are not counted here.
    found = []
    if compared:
        found.append(_said(len(compared), above, f"test errors at most {ROOM:g} points above the published ones"))
    if bounded:
        found.append(_said(len(bounded), looser, "bounds at least as tight (found / proved) as published (found / γ)"))
    other: dict[str, list[str]] = {}
    for result in results:
        if result.published is not None and not result.published.alike:
            other.setdefault(result.published.differs, []).append(result.network.label)
    found += [f"Not compared, as {differs}: {', '.join(labels)}." for differs, labels in other.items()]
    for result in results:
        if result.unconverged or result.train_unconverged:
            found.append(
                f"{result.network.label}: no equilibrium was found for {result.unconverged} test samples, which count "
                f"as errors, and for {result.train_unconverged} training samples in the last epoch, left out of it."
            )
        if result.bugs:
            found.append(f"BUG: {result.network.label}: what was found contradicts a proof: {', '.join(result.bugs)}")
    return found


def _said(count: int, missing: Sequence[str], what: str) -> str:
    if not missing:
        return f"{count} of {count} {what}."
    return f"{count - len(missing)} of {count} {what}; not so: {', '.join(missing)}."


def digits_above(value: float) -> str:
    """Four significant digits of an upper bound, rounded up."""
    return _digits(value, decimal.ROUND_CEILING)


def digits_below(value: float) -> str:
    """Four significant digits of a lower bound, rounded down."""
    return _digits(value, decimal.ROUND_FLOOR)


def _digits(value: float, rounding: str) -> str:
    """Four significant digits."""
    return f"{decimal.Context(prec=4, rounding=rounding).create_decimal_from_float(value):f}"
