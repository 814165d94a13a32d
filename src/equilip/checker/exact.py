"""Exact arithmetic: matrices of integers times one power of two. Every finite float is such a number.

Results are exact or the operation raises ``Refused``: numbers that would need too many bits, and products
that would take too long, are refused before they are computed, whatever a file holds.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from equilip.checker.verdict import Refused

Integers = NDArray[np.object_]  # of Python's integers
Floats = NDArray[np.floating]

MAX_SPREAD = 288  #: powers of two between the lowest bits of two floats of one array; float32 reaches 276
MAX_BITS = 4096  #: bits of any number that is computed
MAX_WORK = 2**37  #: 64-bit multiplications in all: a few minutes, whatever the files hold


class Budget:
    """The work one check may still do; every product takes its share before it starts."""

    def __init__(self, limit: int = MAX_WORK) -> None:
        self.left = limit

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Refused("checking this would take too long: too many neurons, claims, or digits")


class Exact:
    """The matrix ``integers * 2**exponent``. Operators mean what they mean for numpy arrays."""

    def __init__(self, integers: Integers, exponent: int, budget: Budget) -> None:
        self.integers, self.exponent, self.budget = integers, exponent, budget
        if self.bits > MAX_BITS:
            raise Refused("the range of magnitudes of the numbers is too large")

    @classmethod
    def of(cls, floats: Floats, budget: Budget) -> Exact:
        """These finite floats, exactly."""
        fraction, power = np.frexp(floats.astype(np.float64))
        digits = np.ldexp(fraction, 53).astype(np.int64)  # |fraction| < 1 has 53 bits: an integer, no rounding
        # digits & -digits is the lowest bit set, 2**zeros: drop the zeros, so that equal powers stay small.
        zeros = np.maximum(np.frexp((digits & -digits).astype(np.float64))[1].astype(np.int64) - 1, 0)
        digits, power = digits >> zeros, power + zeros - 53
        used = digits != 0
        lowest = int(power[used].min()) if used.any() else 0
        shift = np.where(used, power - lowest, 0)
        if shift.size and int(shift.max()) > MAX_SPREAD:
            raise Refused("the range of magnitudes of the numbers is too large")
        return cls(digits.astype(object) << shift.astype(object), lowest, budget)

    @cached_property
    def bits(self) -> int:
        """Every entry is below 2**bits in absolute value."""
        return int(np.abs(self.integers).max()).bit_length() if self.integers.size else 0

    @property
    def T(self) -> Exact:  # noqa: N802 - as for numpy arrays
        return Exact(self.integers.T, self.exponent, self.budget)

    def shifted(self, up: int | Integers) -> Integers:
        """``integers * 2**up`` with ``up`` at least 0, a number or an array of them."""
        if self.bits and self.bits + int(np.max(up, initial=0)) > MAX_BITS:
            raise Refused("the range of magnitudes of the numbers is too large")
        return np.asarray(self.integers << up, dtype=object) if self.bits else self.integers

    def __add__(self, other: Exact) -> Exact:
        low = min(self.exponent, other.exponent)
        total = self.shifted(self.exponent - low) + other.shifted(other.exponent - low)
        return Exact(total, low, self.budget)

    def __neg__(self) -> Exact:
        return Exact(-self.integers, self.exponent, self.budget)

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact) -> Exact:
        return Exact(self.integers * other.integers, self.exponent + other.exponent, self.budget)

    def __matmul__(self, other: Exact) -> Exact:
        """The matrix product, by 64-bit integer products of limbs of ``width`` bits.

        Limbs are at most 2**width in absolute value, so that every partial sum of a product of limbs is
        below inner * 4**width < 2**62, in whatever order it is summed: 64-bit integers cannot overflow.
        """
        (rows, inner), columns = self.integers.shape, other.integers.shape[1]
        width = (62 - inner.bit_length()) // 2
        left, right = max(1, -(-self.bits // width)), max(1, -(-other.bits // width))
        self.budget.spend(left * right * rows * columns * (inner + 128))  # 128: adding up costs as much
        total: Integers = np.zeros((rows, columns), dtype=object)
        others = limbs(other.integers, right, width)
        for i, a in enumerate(limbs(self.integers, left, width)):
            for j, b in enumerate(others):
                total = total + ((a @ b).astype(object) << width * (i + j))
        return Exact(total, self.exponent + other.exponent, self.budget)

    def floats(self) -> NDArray[np.float64]:
        """Roughly these numbers in floating point (perhaps infinite): for proposals, never for a proof."""
        drop = max(0, self.bits - 1000)
        return np.ldexp((self.integers >> drop).astype(np.float64), self.exponent + drop)


def limbs(integers: Integers, count: int, width: int) -> list[NDArray[np.int64]]:
    """Arrays with ``integers = sum of limb[k] * 2**(width k)``; all but the last are at least 0."""
    low = [integers >> width * k & (1 << width) - 1 for k in range(count - 1)]
    return [limb.astype(np.int64) for limb in [*low, integers >> width * (count - 1)]]
