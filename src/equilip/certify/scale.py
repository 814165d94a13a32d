"""Bounds for known multipliers: the best multiple of Lam, by one-dimensional search (mathematics 9.4).

With P = 2 Lam - Lam W - W' Lam = L L', X = L^-1 Lam U, Y = L^-1 C' and A = Y' X + D, the multiplier t Lam proves the
bound rho = gamma² exactly when t I > Y Y' and

    rho >= lambda_max( t X' X + A' (I - Y' Y / t)^-1 A ),

a convex function of t. Nothing here is a proof: it proposes t and rho, which are proved elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize_scalar

from equilip.certify.system import Head, System
from equilip.rounding import Array

#: The search over t runs over t / t_smallest - 1 between these.
_NARROW, _WIDE = 1e-9, 1e9
#: Multiples at the edge of what floats can hold.
_LEAST, _LARGEST = 1e-100, 1e100


@dataclass(frozen=True, eq=False)
class Scaled:
    """``factor``: what to multiply Lam by; ``rho``: the bound squared that follows. Arrays, one entry per row."""

    factor: Array
    rho: Array


class Metric:
    """P of one Lam, factorised once for many heads.

    Raises numpy's LinAlgError when P is not positive definite in floating point.
    """

    def __init__(self, system: System, lam: Array) -> None:
        weighted = lam[:, None] * system.W.mid
        self.system = system
        self.lam = lam
        self._factor = np.linalg.cholesky(np.diag(2.0 * lam) - weighted - weighted.T)
        X = self._solve(lam[:, None] * system.scaled_inputs.mid)
        self._left, self._singular, self._right = np.linalg.svd(X, full_matrices=False)

    @classmethod
    def of(cls, system: System, lam: Array) -> Self | None:
        """The metric, or None where P is not positive definite in floating point."""
        try:
            return cls(system, lam)
        except np.linalg.LinAlgError:
            return None

    def _solve(self, right: Array) -> Array:
        solved = solve_triangular(self._factor, right, lower=True, check_finite=False)
        return np.asarray(solved, dtype=np.float64)

    def _reads(self, head: Head) -> tuple[Array, Array, Array]:
        """Y (n, q); A in the basis of the inputs that matter (q, r); the singular values of X there (r,)."""
        Y = self._solve(head.C.mid.T)
        A = (Y.T @ self._left) * self._singular
        feed = self.system.scaled_feed(head)
        if feed is None:
            return Y, A, self._singular
        inside = feed.mid @ self._right.T
        outside = np.linalg.qr((feed.mid - inside @ self._right).T)[1].T
        return (
            Y,
            np.hstack([A + inside, outside]),
            np.concatenate([self._singular, np.zeros(outside.shape[1])]),
        )

    def joint(self, head: Head) -> Scaled:
        """The best multiple for all rows of ``head`` together: a bound on the l2 norm of dy."""
        Y, A, singular = self._reads(head)
        V, s = np.linalg.svd(Y.T, full_matrices=True)[:2] if Y.size else (np.eye(Y.shape[1]), np.zeros(0))
        s = np.pad(s, (0, V.shape[0] - s.size))
        smallest = float(s[0] ** 2) if s.size else 0.0
        A = V.T @ A
        top = float(singular.max(initial=0.0))
        if smallest == 0.0 or top == 0.0:
            own = float(np.linalg.norm(A, 2)) ** 2 if A.size else 0.0
            return _decoupled(np.array(smallest), top, np.array(own))

        def rho(log_excess: float) -> float:
            excess = np.exp(log_excess)
            t = smallest * (1.0 + excess)
            # 1 - s²/t without cancellation at the largest s.
            weight = t / ((smallest - s**2) + smallest * excess)
            return float(np.linalg.eigvalsh(np.diag(t * singular**2) + (A.T * weight) @ A)[-1])

        found = minimize_scalar(rho, bounds=(np.log(_NARROW), np.log(_WIDE)), method="bounded", options={"xatol": 1e-5})
        return Scaled(np.array(smallest * (1.0 + np.exp(found.x))), np.array(found.fun))

    def rows(self, head: Head) -> Scaled:
        """The best multiple for every row of ``head`` by itself: bounds on the entries of dy."""
        Y, A, singular = self._reads(head)
        smallest = np.sum(Y**2, axis=0)
        squares = A**2
        own = np.sum(squares, axis=1)
        top = float(singular.max(initial=0.0))
        decoupled = _decoupled(smallest, top, own)
        alone = (smallest == 0.0) | (top == 0.0)

        def rho(log_excess: Array, halvings: int) -> Array:
            """Largest eigenvalues of t singular² + t / (t - smallest) a a', all rows at once."""
            excess = np.exp(log_excess)
            t = smallest * (1.0 + excess)
            weight = (1.0 + excess) / excess
            poles = t[:, None] * singular**2
            low = poles.max(axis=1, initial=0.0)
            high = low + weight * own
            for _ in range(halvings):
                middle = 0.5 * (low + high)
                distance = np.maximum(middle[:, None] - poles, np.finfo(np.float64).tiny)
                below = weight * np.einsum("ij,ij->i", squares, 1.0 / distance) > 1.0
                low, high = np.where(below, middle, low), np.where(below, high, middle)
            return high

        golden = 0.5 * (np.sqrt(5.0) - 1.0)
        # Were a parallel to the strongest input direction, this would be the best excess; it never is far off.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            guess = np.nan_to_num(np.sqrt(own / smallest) / top, nan=1.0)
        center = np.log(np.clip(guess, 100.0 * _NARROW, _WIDE / 100.0))
        left, right = center - 4.0, center + 4.0
        for _ in range(18):
            inner, outer = right - golden * (right - left), left + golden * (right - left)
            lower = rho(inner, 26) <= rho(outer, 26)
            left, right = np.where(lower, left, inner), np.where(lower, outer, right)
        best = 0.5 * (left + right)
        factor = np.where(alone, decoupled.factor, smallest * (1.0 + np.exp(best)))
        return Scaled(factor, np.where(alone, decoupled.rho, rho(best, 60)))


def _decoupled(smallest: Array, top: float, own: Array) -> Scaled:
    """Where the output ignores the neurons, or these ignore the input: nearly the bound of D alone.

    ``own`` is the square of D's norm. A constant output gets a bound of 1e-30, for a proof needs a little room.
    """
    # Numbers that have no place among floats stop at the edge: whatever the factor, what it gives is proved later.
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        rho = np.maximum(own * (1.0 + 1e-8), 1e-60)
        if top == 0.0:
            return Scaled(np.where(smallest > 0.0, np.minimum(smallest * 1e9, _LARGEST), 1.0), rho)
        return Scaled(np.clip(1e-9 * rho / top / top, _LEAST, _LARGEST), rho)
