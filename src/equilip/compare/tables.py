"""The tables of a comparison, for a terminal, the page, and Markdown."""

from __future__ import annotations

from collections.abc import Callable

from equilip.compare.measure import Measured
from equilip.compare.results import Comparison, Result, Spread
from equilip.paper.tables import Table
from equilip.report.numbers import above, below

#: What the columns mean.
LEGEND = (
    "Means over the seeds, in percent; ± is half the distance between the smallest and the largest. ε are ℓ2 distances "
    "in raw units. Clean and certified accuracy are of all test samples; attacked accuracy is what attacks leave of "
    "the first {attacked} (of all, where there are fewer). Bounds and slopes are per unit of raw input: the bounds, of "
    "which the largest of the seeds stands here, are proved for the stored numbers and checked by the stand-alone "
    "checker. Tight: the largest slope found as a share of the bound."
)
COST_LEGEND = (
    "Seconds and microseconds are the processor's, one thread; certifying is on the clock. Memory is what torch "
    "allocates at the peak of one training step of {batch} samples, beside parameters and data, and of classifying 500."
)

_NONE = "–"
#: How far parameters and seconds may be from what was asked for without a word.
_NEAR = 0.1


def accuracy(found: Comparison) -> Table:
    """Clean, certified and attacked accuracy, bounds, tightness."""
    eps = found.settings.eps
    columns = (
        "family", "clean", *(f"certified, ε = {e:g}" for e in eps), *(f"attacked, ε = {e:g}" for e in eps),
        "bound, proved", "slope, found", "tight",
    )  # fmt: skip
    return Table(columns, tuple(_accuracy_row(result, len(eps)) for result in found.results))


def _accuracy_row(result: Result, sizes: int) -> tuple[str, ...]:
    bounds = result.spread_where_known(lambda one: one.bound)
    tight = result.spread_where_known(lambda one: one.tightness)

    def at(index: int, attacked: bool) -> Callable[[Measured], float]:
        return lambda one: (one.attacked if attacked else one.certified)[index]

    return (
        result.family.label,
        percent(result.spread(lambda one: one.clean)),
        *(percent(result.spread(at(index, False))) for index in range(sizes)),
        *(percent(result.spread(at(index, True))) for index in range(sizes)),
        _NONE if bounds is None else above(bounds.high),
        below(result.spread(lambda one: one.slope).high),
        _NONE if tight is None else f"{below(100 * tight.mean, 3)} %",
    )


def cost(found: Comparison) -> Table:
    """Parameters, epochs, time and memory."""
    columns = (
        "family", "width", "parameters", "epochs", "training, s", "a sample, µs", "certifying, s", "training, MB",
        "classifying, MB",
    )  # fmt: skip
    return Table(columns, tuple(_cost_row(result) for result in found.results))


def _cost_row(result: Result) -> tuple[str, ...]:
    def mean(number: Callable[[Measured], float], digits: int = 1) -> str:
        return f"{result.spread(number).mean:.{digits}f}"

    return (
        result.family.label,
        str(result.width),
        f"{result.measured[0].parameters:,}",
        str(result.measured[0].epochs),
        mean(lambda one: one.train_seconds),
        mean(lambda one: one.infer_microseconds),
        mean(lambda one: one.certify_seconds),
        mean(lambda one: one.memory / 1e6, 2),
        mean(lambda one: one.infer_memory / 1e6, 2),
    )


def percent(spread: Spread) -> str:
    """A share over the seeds."""
    half = 50 * (spread.high - spread.low)
    return f"{100 * spread.mean:.1f}" + (f" ± {half:.1f}" if spread.high > spread.low else "")


def sentences(found: Comparison) -> list[str]:
    """What a reader should know beside the tables."""
    said = [f"{label} is not compared: {reason}." for label, reason in found.absent]
    for result in found.results:
        held, asked = result.measured[0].parameters, found.settings.parameters
        if abs(held - asked) > _NEAR * asked:
            said.append(f"{result.family.label} has {held:,} parameters, as near to {asked:,} as its sizes allow.")
        took = result.spread(lambda one: one.train_seconds).mean
        if result.measured[0].epochs == 1 and took > (1 + _NEAR) * found.settings.seconds:
            said.append(f"{result.family.label} took {took:.0f} s to train: that is one pass over the data.")
    nothing = [result.family.label for result in found.results if any(one.bound is None for one in result.measured)]
    if nothing:
        said.append(f"Of some networks nothing could be proved: {', '.join(nothing)}.")
    said += [f"BUG: what was found contradicts a proof: {bug}" for result in found.results for bug in result.bugs]
    return said
