"""From numbers to places on an axis, and the round numbers that stand beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: The least ratio between the ends of a logarithmic axis.
_LEAST_RATIO = 1.5


@dataclass(frozen=True)
class Axis:
    """What an axis says: its label, with the unit. limits: numbers between which it reaches at least; None for an end
    that the data alone decide. log: logarithmic; numbers that are not positive have no place on it then."""

    label: str
    limits: tuple[float | None, float | None] = (None, None)
    log: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis over [low, high], drawn from ``start`` to ``end`` (pixels, in either direction)."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float | None:
        """Where the number is; None where it is not finite or has no place."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return None
        share = (self._bend(value) - self._bend(self.low)) / (self._bend(self.high) - self._bend(self.low))
        return self.start + share * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value


def scale(axis: Axis, values: Iterable[float], start: float, end: float, count: int) -> Scale:
    """The scale of an axis that shows these values, with about ``count`` ticks. Without any value it still is one."""
    asked = [limit for limit in axis.limits if limit is not None]
    usable = [value for value in (*values, *asked) if math.isfinite(value) and (value > 0 or not axis.log)]
    low, high = min(usable, default=0.1 if axis.log else 0.0), max(usable, default=1.0)
    if axis.log:
        if high < low * _LEAST_RATIO:
            middle = math.sqrt(low * high)
            low, high = middle / _LEAST_RATIO, middle * _LEAST_RATIO
        return Scale(low, high, start, end, True, _log_ticks(low, high, count))
    if not low < high:
        room = max(abs(low) * 0.1, 1e-3)
        low, high = (low if low == axis.limits[0] else low - room), (high if high == axis.limits[1] else high + room)
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Ends that the data chose move out to the next tick; those that were asked for stay.
    low, high = (edge if edge in axis.limits else tick * step for edge, tick in ((low, first), (high, last)))
    ticks = tuple(number * step for number in range(first, last + 1))
    slack = 1e-9 * step
    return Scale(low, high, start, end, False, tuple(tick for tick in ticks if low - slack <= tick <= high + slack))


def text(value: float) -> str:
    """A number in few characters."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _step(rough: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Powers of ten, thinned out where there are many; with more between where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / count))
    powers = range(first, last + 1, every)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = tuple(factor * 10.0**power for power in powers for factor in factors)
        inside = tuple(tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9))
        if len(inside) >= 3 or every > 1:
            return inside
    step = _step((high - low) / count)
    return tuple(number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1))
