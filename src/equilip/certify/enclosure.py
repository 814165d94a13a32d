"""Matrices known up to a proven entrywise error: the arithmetic in which proofs are written.

An :class:`Enclosure` is a float64 matrix ``mid`` together with a radius ``rad`` >= 0 for every entry; it stands
for every matrix within ``rad`` of ``mid``. Each operation encloses the exact result for all of them, its own
rounding included (see :mod:`equilip.rounding`), so that a proof about an expression is a proof about exact numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from equilip.rounding import UNDERFLOW, UNIT_ROUNDOFF, Array, gamma

#: One operation's relative error, with room for the rounding of the radius itself.
_ONE = 2.0 * UNIT_ROUNDOFF
#: A radius is a sum of non-negative terms: this factor pays for the few roundings of its own computation.
_GROW = 1.0 + 16.0 * UNIT_ROUNDOFF


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Every matrix within ``rad`` of ``mid``, entrywise; both of one shape, float64."""

    mid: Array
    rad: Array

    @staticmethod
    def exact(matrix: Array) -> Enclosure:
        """The matrix itself, with radius zero."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        return Enclosure(matrix, np.zeros_like(matrix))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    @property
    def T(self) -> Enclosure:  # noqa: N802
        return Enclosure(self.mid.T, self.rad.T)

    @property
    def size(self) -> Array:
        """An upper bound of the absolute value of every entry."""
        return (np.abs(self.mid) + self.rad) * _GROW

    def __getitem__(self, index: Any) -> Enclosure:
        return Enclosure(self.mid[index], self.rad[index])

    def _rounded(self, mid: Array, rad: Array) -> Enclosure:
        return Enclosure(mid, (rad + _ONE * np.abs(mid) + UNDERFLOW) * _GROW)

    def __add__(self, other: Enclosure) -> Enclosure:
        return self._rounded(self.mid + other.mid, self.rad + other.rad)

    def __sub__(self, other: Enclosure) -> Enclosure:
        return self._rounded(self.mid - other.mid, self.rad + other.rad)

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.mid, self.rad)

    def __mul__(self, factor: Array | float) -> Enclosure:
        """Entrywise product with exact numbers (broadcast)."""
        return self._rounded(self.mid * factor, self.rad * np.abs(factor))

    def __truediv__(self, divisor: Array | float) -> Enclosure:
        """Entrywise quotient by exact numbers (broadcast)."""
        return self._rounded(self.mid / divisor, self.rad / np.abs(divisor))

    def __matmul__(self, other: Enclosure) -> Enclosure:
        """The matrix product; any order of summation."""
        inner = self.mid.shape[1]
        growth = gamma(inner + 2)
        mid = self.mid @ other.mid
        rad = growth * (np.abs(self.mid) @ np.abs(other.mid))
        if other.rad.any():
            rad += np.abs(self.mid) @ other.rad
        if self.rad.any():
            rad += self.rad @ (np.abs(other.mid) + other.rad)
        return Enclosure(mid, (rad * (1.0 + 2.0 * growth) + 2.0 * inner * UNDERFLOW) * _GROW)

    def mirrored(self) -> Enclosure:
        """For matrices known to be symmetric: the lower triangle copied above the diagonal, to the last bit."""
        lower = np.tril(self.mid)
        strict = np.tril(self.mid, -1)
        radius = np.tril(self.rad)
        return Enclosure(lower + strict.T, radius + np.tril(self.rad, -1).T)


def block(rows: list[list[Enclosure]]) -> Enclosure:
    """One enclosure out of a table of blocks, as ``numpy.block`` does for arrays."""
    return Enclosure(
        np.block([[entry.mid for entry in row] for row in rows]),
        np.block([[entry.rad for entry in row] for row in rows]),
    )


def inverse(matrix: Enclosure) -> Enclosure | None:
    """An enclosure of the inverses of a square matrix, or None where some may be singular.

    With an approximate inverse A and R = I - A M of norm at most eta < 1 (largest row sum), the inverse is
    A + R A + R^2 A + ..., so it differs from A by at most eta / (1 - eta) times the largest entry of a column of |A|.
    """
    n = matrix.shape[0]
    try:
        approximate = Enclosure.exact(np.asarray(np.linalg.inv(matrix.mid), dtype=np.float64))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(approximate.mid).all():
        return None
    defect = (Enclosure.exact(np.eye(n)) - approximate @ matrix).size
    eta = float(np.max(np.sum(defect, axis=1), initial=0.0)) * (1.0 + 2.0 * gamma(n + 2))
    if not eta < 0.5:
        return None
    largest = np.max(np.abs(approximate.mid), axis=0, initial=0.0)
    radius = np.broadcast_to(eta / (1.0 - eta) * largest * _GROW, (n, n))
    return Enclosure(approximate.mid, radius.copy())
