"""The semidefinite programme of the ℓ∞ slope of one output: minimise Σ s_j² g_j over multipliers lam and weights g with

    M = [[2 Lam - Lam W - W' Lam, C', -Lam U], [C, 1, D], [-U' Lam, D', G]] > 0,    G = diag(g),

which gives |dy|² <= Σ g_j dxi_j² <= Σ g_j s_j² for |dxi_j| <= s_j (linf.md 3). A log-barrier Newton method: with
N the inverse of M and f_i = (e_i - W_i, 0, -U_i), multiplier i enters M as e_i f_i' + f_i e_i', so that gradient and
Hessian are elementwise products of N and N f. Nothing here is a proof: multipliers and weights are proposals.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from equilip.rounding import Array


@dataclass(frozen=True, eq=False)
class Traced:
    """Strictly feasible ``lam`` (n,) and weights ``g`` (p,); ``converged``: near enough to the optimum."""

    lam: Array
    g: Array
    converged: bool


class _Programme:
    """W (n, n), U (n, p), one row C (n,) and D (p,); every input counts alike (s = 1)."""

    def __init__(self, W: Array, U: Array, C: Array, D: Array) -> None:
        self.n, self.p = U.shape
        n, p = self.n, self.p
        self.W, self.U = W, U
        self.fixed = np.zeros((n + 1 + p, n + 1 + p))
        self.fixed[n, n] = 1.0
        self.fixed[n, :n] = self.fixed[:n, n] = C
        self.fixed[n, n + 1 :] = self.fixed[n + 1 :, n] = D
        self.reads = np.hstack([np.eye(n) - W, np.zeros((n, 1)), -U])

    def matrix(self, lam: Array, g: Array) -> Array:
        n = self.n
        M = self.fixed.copy()
        weighted = lam[:, None] * self.W
        M[:n, :n] += np.diag(2.0 * lam) - weighted - weighted.T
        M[:n, n + 1 :] -= lam[:, None] * self.U
        M[n + 1 :, :n] = M[:n, n + 1 :].T
        M[np.arange(n + 1, n + 1 + self.p), np.arange(n + 1, n + 1 + self.p)] = g
        return M

    def barrier(self, point: Array) -> float:
        """-log det M; infinite outside."""
        if not (point > 0).all():
            return np.inf
        try:
            factor = np.linalg.cholesky(self.matrix(point[: self.n], point[self.n :]))
        except np.linalg.LinAlgError:
            return np.inf
        value = -2.0 * float(np.sum(np.log(np.diagonal(factor))))
        return value if np.isfinite(value) else np.inf

    def derivatives(self, point: Array) -> tuple[Array, Array]:
        """Gradient and Hessian of -log det M in units of the point itself: of the logarithms, to first order."""
        n = self.n
        lam, g = point[:n], point[n:]
        N = np.linalg.inv(self.matrix(lam, g))
        N = 0.5 * (N + N.T)
        NF = self.reads @ N
        inputs = slice(n + 1, None)
        gradient = np.concatenate([-2.0 * np.diagonal(NF[:, :n]) * lam, -np.diagonal(N)[inputs] * g])
        hessian = np.empty((point.size, point.size))
        FNF = NF @ self.reads.T
        hessian[:n, :n] = 2.0 * (N[:n, :n] * FNF + NF[:, :n] * NF[:, :n].T)
        hessian[:n, n:] = 2.0 * N[:n, inputs] * NF[:, inputs]
        hessian[n:, :n] = hessian[:n, n:].T
        hessian[n:, n:] = N[inputs, inputs] ** 2
        return gradient, hessian * point[:, None] * point[None, :]


def minimise(
    W: Array, U: Array, C: Array, D: Array, s: Array, lam: Array, g: Array, *, seconds: float, relative: float = 1e-3
) -> Traced | None:
    """Follow the central path from strictly feasible ``lam`` (n,), ``g`` (p,) until Σ s² g is optimal to ``relative``.

    W (n, n), U (n, p), C (n,), D (p,), and s (p,) > 0, the half-widths of the inputs. None where the start is not
    feasible; when ``seconds`` run out the last point, which is feasible all the same.
    """
    deadline = time.monotonic() + seconds
    programme = _Programme(W, U * s, C, D * s)
    n = programme.n
    point = np.concatenate([lam, g * s**2])
    objective = float(np.sum(point[n:]))
    value = programme.barrier(point)
    if not np.isfinite(value):
        return None
    degree = point.size + 1
    t = degree / objective
    target = np.zeros(point.size)
    for _ in range(200):
        gradient, hessian = programme.derivatives(point)
        target[n:] = point[n:]
        direction, decrement = _newton(hessian, gradient + t * target)
        if direction is None:
            return Traced(point[:n], point[n:] / s**2, False)
        if decrement < 0.5:
            if degree / t <= relative * objective:
                return Traced(point[:n], point[n:] / s**2, True)
            t *= 12.0
            direction, decrement = _newton(hessian, gradient + t * target)
        if direction is None or time.monotonic() > deadline:
            break
        moved = None
        step = 1.0
        for _ in range(40):
            candidate = point * (1.0 + step * direction)
            new = programme.barrier(candidate)
            gain = t * (objective - float(np.sum(candidate[n:]))) + value - new
            if np.isfinite(new) and gain >= 0.1 * step * decrement - 1e-11 * abs(value):
                moved = candidate, new
                break
            step *= 0.5
        if moved is None:
            break
        point, value = moved
        objective = float(np.sum(point[n:]))
    return Traced(point[:n], point[n:] / s**2, False)


def _newton(hessian: Array, gradient: Array) -> tuple[Array | None, float]:
    """-hessian⁻¹ gradient and its squared decrement; None where the Hessian is not definite in floating point."""
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(hessian), np.finfo(np.float64).tiny))
    scaled = hessian * scale[:, None] * scale[None, :]
    scaled[np.diag_indices(scale.size)] += 1e-13
    try:
        direction = -scale * cho_solve(cho_factor(scaled, check_finite=False), scale * gradient, check_finite=False)
    except np.linalg.LinAlgError:
        return None, np.inf
    decrement = float(-gradient @ direction)
    return (direction, decrement) if np.isfinite(decrement) else (None, np.inf)
