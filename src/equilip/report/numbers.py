"""Numbers for people, rounded so that what is shown is true as well."""

from __future__ import annotations

import decimal
from collections.abc import Sequence


def above(value: float, digits: int = 5) -> str:
    """An upper bound, rounded up."""
    return _rounded(value, digits, decimal.ROUND_CEILING)


def below(value: float, digits: int = 5) -> str:
    """A lower bound, rounded down."""
    return _rounded(value, digits, decimal.ROUND_FLOOR)


def _rounded(value: float, digits: int, rounding: str) -> str:
    return f"{decimal.Context(prec=digits, rounding=rounding).create_decimal_from_float(value).normalize():f}"


def percent(value: float, digits: int = 2) -> str:
    """A share that is in percent already."""
    return f"{value:.{digits}f} %"


def percent_below(value: float) -> str:
    """The same, rounded down: 99.999 is not shown as 100."""
    step = decimal.Decimal("0.01")
    return f"{decimal.Decimal(value).quantize(step, rounding=decimal.ROUND_FLOOR)} %"


def error_bound(value: float) -> str:
    """A small upper bound in two digits, rounded up."""
    if value == 0.0:
        return "0"
    return f"{decimal.Context(prec=2, rounding=decimal.ROUND_CEILING).create_decimal_from_float(value):.1e}"


def ranges(numbers: Sequence[int]) -> str:
    """Increasing whole numbers in few characters: 0, 3, 7 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run] for run in runs]
    return ", ".join(part for some in parts for part in some)
