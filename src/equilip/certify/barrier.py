"""The semidefinite programme of mathematics 9.3 by a log-barrier Newton method made for its shape.

Minimise rho over multipliers lam (n,) subject to M(lam, rho) > 0. With y as a variable of its own the input block
of M is rho I, and eliminating it leaves

    Q = [[2 Lam - Lam W - W' Lam, C'], [C, I]] - K G K / rho,    K = diag(Lam, -I),

of size n + q, where G is the Gram matrix of the rows of U and D: no matrix ever has the size of the input. Each
multiplier enters M by a matrix of rank two, so gradient and Hessian of log det M come from Q's inverse by elementwise
products. The Newton step costs a few products of matrices of that size, and some forty steps are enough.
Nothing here is a proof: the multipliers are proposals, proved elsewhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from equilip.rounding import Array


@dataclass(frozen=True, eq=False)
class Programme:
    """The numbers of one programme: W (n, n), C (q, n), gram (n + q, n + q) of U and D, rank of the input block."""

    W: Array
    C: Array
    gram: Array
    rank: int

    @property
    def degree(self) -> int:
        """The barrier parameter: at the centre for t, rho is at most degree / t above the optimum."""
        return self.gram.shape[0] + self.rank

    def schur(self, lam: Array, rho: float) -> Array:
        """Q(lam, rho)."""
        n = lam.size
        weighted = lam[:, None] * self.W
        Q = np.eye(self.gram.shape[0])
        Q[:n, :n] = np.diag(2.0 * lam) - weighted - weighted.T
        Q[n:, :n] = self.C
        Q[:n, n:] = self.C.T
        k = np.concatenate([lam, -np.ones(self.C.shape[0])])
        return Q - k[:, None] * self.gram * (k[None, :] / rho)

    def log_barrier(self, lam: Array, rho: float) -> float:
        """-log det M; infinite outside."""
        if not (rho > 0 and (lam > 0).all()):
            return np.inf
        try:
            factor = np.linalg.cholesky(self.schur(lam, rho))
        except np.linalg.LinAlgError:
            return np.inf
        value = -2.0 * float(np.sum(np.log(np.diagonal(factor)))) - self.rank * float(np.log(rho))
        return value if np.isfinite(value) else np.inf

    def derivatives(self, lam: Array, rho: float) -> tuple[Array, Array]:
        """Gradient (n + 1,) and Hessian (n + 1, n + 1) of -log det M at an interior point; rho is the last variable."""
        n = lam.size
        once = 1.0 / rho
        twice = once * once  # not a power: Python's raise an error where products become infinite
        k = np.concatenate([lam, -np.ones(self.C.shape[0])])
        X = _inverse(self.schur(lam, rho))
        top = self.gram[:n] * k
        T = top / rho
        T[:, :n] += self.W
        T[np.arange(n), np.arange(n)] -= 1.0
        TX = T @ X
        R = X @ (k[:, None] * self.gram * k)
        RX = R @ X[:, :n]
        gradient = np.empty(n + 1)
        gradient[:n] = 2.0 * np.einsum("ii->i", TX[:, :n])
        gradient[n] = -(self.rank * once + np.trace(R) * twice)
        hessian = np.empty((n + 1, n + 1))
        cross = TX[:, :n]
        hessian[:n, :n] = 2.0 * (X[:n, :n] * (TX @ T.T + self.gram[:n, :n] / rho) + cross * cross.T)
        hessian[:n, n] = -2.0 * (np.einsum("ij,ji->i", T, RX) + np.einsum("ij,ji->i", top, X[:, :n])) * twice
        hessian[n, :n] = hessian[:n, n]
        hessian[n, n] = (self.rank + 2.0 * np.trace(R) * once + np.einsum("ij,ji->", R, R) * twice) * twice
        return gradient, hessian


@dataclass(frozen=True, eq=False)
class Minimum:
    """What the programme came to: strictly feasible ``lam`` and ``rho``; ``gap``: how far rho may be from optimal."""

    lam: Array
    rho: float
    gap: float
    steps: int
    converged: bool


def minimise(programme: Programme, lam: Array, rho: float, *, relative: float = 2e-6, seconds: float = 60.0) -> Minimum:
    """Follow the central path from a strictly feasible point until the gap is ``relative`` times rho.

    When the time runs out or rounding stops the path, the last point is returned with ``converged`` False; it
    is feasible all the same.
    """
    deadline = time.monotonic() + seconds
    n = lam.size
    value = programme.log_barrier(lam, rho)
    if not np.isfinite(value):
        raise ValueError("the starting point of the barrier method must be strictly feasible.")
    gradient, hessian = programme.derivatives(lam, rho)
    # The t for which the start is nearest to the central path, but no sillier than a factor of two in rho.
    response = _newton(hessian, np.append(np.zeros(n), 1.0))
    t = max(-float(response @ gradient) / float(response[n]), 0.5 * programme.degree / rho)
    point = np.append(lam, rho)
    for steps in range(1, 400):
        slope = gradient.copy()
        slope[n] += t
        direction = -_newton(hessian, slope)
        decrement = float(-slope @ direction)
        centred = decrement < 0.3
        gap = programme.degree / t
        if centred and gap <= relative * point[n]:
            return Minimum(point[:n], float(point[n]), gap, steps, True)
        if centred:
            t *= 30.0 if decrement < 0.05 else 10.0
            slope[n] = gradient[n] + t
            direction = -_newton(hessian, slope)
            decrement = float(-slope @ direction)
        if not np.isfinite(decrement) or time.monotonic() > deadline:
            break
        moved = _search(programme, point, direction, value, t, decrement)
        if moved is None:
            break
        point, value = moved
        gradient, hessian = programme.derivatives(point[:n], float(point[n]))
    return Minimum(point[:n], float(point[n]), programme.degree / t, steps, False)


def _search(
    programme: Programme, point: Array, direction: Array, value: float, t: float, decrement: float
) -> tuple[Array, float] | None:
    """The longest of the steps 1, 1/2, 1/4, ... that stays inside and lowers the objective enough."""
    step = 1.0
    for _ in range(40):
        candidate = point + step * direction
        moved = programme.log_barrier(candidate[:-1], float(candidate[-1]))
        gain = t * (point[-1] - candidate[-1]) + value - moved
        if np.isfinite(moved) and gain >= 0.1 * step * decrement - 1e-11 * abs(value):
            return candidate, moved
        step *= 0.5
    return None


def _inverse(matrix: Array) -> Array:
    inverse = np.linalg.inv(matrix)
    return np.asarray(0.5 * (inverse + inverse.T), dtype=np.float64)


def _newton(hessian: Array, right: Array) -> Array:
    """hessian^-1 right, with the Hessian scaled to a unit diagonal first and made definite where rounding ate it."""
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(hessian), np.finfo(np.float64).tiny))
    scaled = hessian * scale[:, None] * scale[None, :]
    ridge = 0.0
    for _ in range(12):
        try:
            factor = np.linalg.cholesky(scaled + ridge * np.eye(scale.size))
            break
        except np.linalg.LinAlgError:
            ridge = max(10.0 * ridge, 1e-14)
    else:
        return np.full(right.shape, np.nan)
    half = np.linalg.solve(factor, right * scale)
    return np.asarray(np.linalg.solve(factor.T, half) * scale, dtype=np.float64)
