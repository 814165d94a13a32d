"""Numbers for people, rounded so that what is shown is true as well."""

from __future__ import annotations

import decimal


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
    return f"{decimal.Context(prec=2, rounding=decimal.ROUND_CEILING).create_decimal_from_float(value):.1e}"
