"""What floating-point arithmetic guarantees: the few facts on which every proof of the library rests.

All statements are about IEEE 754 double precision with rounding to nearest, on the processor (numpy and
its LAPACK). They hold for any order of summation, with or without fused multiply-add, and even where
subnormal numbers are flushed to zero; they do not hold for fast (Strassen-like) products or emulated
double precision. Only numpy is imported here.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Half the distance between 1 and the next float64: the relative error of one operation.
UNIT_ROUNDOFF = 2.0**-53
#: The absolute error that one operation may add near zero; 2**-1074 would do where subnormals are kept.
UNDERFLOW = 2.0**-1022


@overload
def up(x: float) -> float: ...
@overload
def up(x: Array) -> Array: ...
def up(x: float | Array) -> float | Array:
    """The next float64 above ``x``: at least the exact result of the one operation that gave ``x``."""
    if isinstance(x, float | int):
        return math.nextafter(x, math.inf)
    return np.nextafter(x, np.inf)


@overload
def down(x: float) -> float: ...
@overload
def down(x: Array) -> Array: ...
def down(x: float | Array) -> float | Array:
    """The next float64 below ``x``: at most the exact result of the one operation that gave ``x``."""
    if isinstance(x, float | int):
        return math.nextafter(x, -math.inf)
    return np.nextafter(x, -np.inf)


def gamma(k: int) -> float:
    """k u / (1 - k u), rounded up: the relative error of k operations in a row.

    Returns infinity where k u >= 1, for then nothing is known. Raises ``ValueError`` for a negative ``k``.
    """
    if k < 0:
        raise ValueError(f"gamma(k) counts operations, so k cannot be {k}.")
    ku = k * UNIT_ROUNDOFF
    if ku >= 0.5:
        return math.inf
    return up(up(ku) / down(1.0 - up(ku))) if k else 0.0


def upper_sum(x: Array, axis: int | None = None) -> Array:
    """An upper bound of the exact sum of the non-negative numbers ``x`` (over ``axis``, or all of them)."""
    count = x.size if axis is None else x.shape[axis]
    total = np.asarray(np.sum(x, axis=axis), dtype=np.float64)
    return np.nextafter(total * (1.0 + 2.0 * gamma(count + 2)), np.inf)


def verified_positive_definite(matrix: Array, perturbation: Array | None = None) -> bool:
    """Whether every symmetric matrix within ``perturbation`` (entrywise) of ``matrix`` is positive definite.

    ``True`` is a proof; ``False`` only says that this proof did not go through. The method is Rump's
    (BIT 46, 2006): a floating-point Cholesky factorisation that runs to its end on a matrix whose diagonal
    was lowered by more than its backward error. The matrix is scaled by exact powers of two first.
    ``matrix`` is float64 and symmetric to the last bit, else ``ValueError``; ``perturbation`` is at least 0.
    """
    n = matrix.shape[0]
    if matrix.shape != (n, n) or matrix.dtype != np.float64:
        raise ValueError(f"expected a square float64 matrix, got {matrix.dtype} of shape {tuple(matrix.shape)}.")
    if n == 0:
        return True
    if not np.isfinite(matrix).all():
        return False
    if not np.array_equal(matrix, matrix.T):
        raise ValueError("expected a matrix that is symmetric to the last bit.")
    diagonal = np.diagonal(matrix)
    if not (diagonal > 0).all():
        return False

    # Scale to a diagonal in [1/2, 2): exact, except that entries may underflow (counted below).
    exponent = -(np.frexp(diagonal)[1] // 2)
    shift = exponent[:, None] + exponent[None, :]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = np.ldexp(matrix, shift)
        radius = np.full(n, n * UNDERFLOW)
        if perturbation is not None:
            radius = radius + upper_sum(np.ldexp(perturbation, shift) + UNDERFLOW, axis=1)
    if not np.isfinite(scaled).all() or not np.isfinite(radius).all():
        return False

    # A completed Cholesky factor R has R'R = A + F with |F_ij| <= k/(1-k) sqrt(a_ii a_jj), k = gamma(n+1), so
    # the norm of F is at most k/(1-k) trace(A). Seven operations more pay for BLAS libraries that multiply by
    # a rounded reciprocal where the textbook divides. A perturbation within E is at least -diag(E 1).
    diagonal = np.diagonal(scaled)
    k = gamma(n + 8)
    if k >= 0.25:
        return False
    backward = up(up(k / down(1.0 - k)) * float(upper_sum(diagonal)))
    underflow = 16.0 * n * (2.0 * n + 2.0) * UNDERFLOW
    lowered = scaled.copy()
    lower_by = up(up(backward + underflow) * (1.0 + 8 * UNIT_ROUNDOFF) + radius * (1.0 + 8 * UNIT_ROUNDOFF))
    np.fill_diagonal(lowered, down(diagonal - up(lower_by)))
    if not (np.diagonal(lowered) > 0).all():
        return False
    try:
        factor = np.linalg.cholesky(lowered)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(factor).all() and (np.diagonal(factor) > 0).all())


def well_posedness_margin(W: Array, lam: Array) -> float:
    """A proven m > 0 with 2 Lam - Lam W - W' Lam - 2 m Lam >= 0 for the stored numbers, or 0.0.

    0.0 means that none could be proved. ``W`` is (n, n) and ``lam`` (n,), the diagonal of Lam. Such an m
    makes the equation with weights ``W`` and slopes in [0, 1] have exactly one equilibrium for every input,
    and I - W strongly monotone with constant m in the inner product of Lam. The value is the largest one
    up to rounding: an eigenvalue estimate, lowered until the proof goes through. Where the entries of W are so
    different in size that no such estimate can be trusted, it is within a factor of two of what can be proved.
    """
    W = np.asarray(W, dtype=np.float64)
    lam = np.asarray(lam, dtype=np.float64)
    n = lam.shape[0]
    if W.shape != (n, n):
        raise ValueError(f"expected W of shape ({n}, {n}) for {n} multipliers, got shape {tuple(W.shape)}.")
    if not (np.isfinite(W).all() and np.isfinite(lam).all() and (lam > 0).all()):
        return 0.0
    if n == 0:
        return 1.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weighted = lam[:, None] * W
        total = weighted + weighted.T
        size = np.abs(weighted) + np.abs(weighted).T
        root = np.sqrt(lam)
        scaled = total / (2.0 * root[:, None] * root[None, :])
    if not (np.isfinite(size).all() and np.isfinite(scaled).all()):
        return 0.0
    eigenvalues = np.linalg.eigvalsh(scaled)
    estimate = 1.0 - float(eigenvalues[-1])
    spread = max(1.0, abs(float(eigenvalues[0])), abs(float(eigenvalues[-1])))

    def holds(margin: float) -> bool:
        diagonal = 2.0 * (1.0 - margin) * lam
        matrix = -total
        matrix[np.diag_indices(n)] += diagonal
        error = 4.0 * UNIT_ROUNDOFF * size + 4.0 * UNDERFLOW
        # 1 - margin may cancel, so its error is counted against both terms.
        error[np.diag_indices(n)] += 8.0 * UNIT_ROUNDOFF * (np.abs(diagonal) + lam * (1.0 + margin))
        return verified_positive_definite(matrix, error)

    step = 4.0 * UNIT_ROUNDOFF * spread
    while step < estimate:
        if holds(estimate - step):
            return estimate - step
        step *= 4.0
    # Where W's entries differ by many orders of magnitude the estimate drowns in rounding; the proof may not.
    margin = float(np.min(1.0 - np.diagonal(W)))
    if not (margin > 0.0 and holds(0.0)):
        return 0.0
    for _ in range(60):
        if holds(margin):
            return margin
        margin *= 0.5
    return 0.0


def comparison_slack(W: Array, weight: Array, slope: Array) -> Array:
    """Lower bounds (n,) of weight - slope ∘ (M weight), M the comparison matrix of W: its diagonal, and |w_ij| off it.

    ``W`` is (n, n); ``weight`` and ``slope`` (n,) are not negative. Where every entry is positive, an equation with
    these weights and with slopes between 0 and ``slope`` has exactly one equilibrium for every input, and changes of it
    are bounded entry by entry (linf.md 1). Overflow gives -inf or NaN, which proves nothing.
    """
    n = weight.shape[0]
    diagonal = np.diagonal(W).copy()
    size = np.abs(W)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.fill_diagonal(size, 0.0)
        others = size @ weight
        own = diagonal * weight
        slack = weight - slope * (own + others)
        error = gamma(n + 8) * (weight + slope * (np.abs(own) + others)) + (n + 8.0) * UNDERFLOW
        return np.asarray(slack - error * (1.0 + gamma(n + 8)), dtype=np.float64)
