"""Finding multipliers Λ that prove a W well-posed, when no parametrisation hands them over.

Cheap recipes first: Λ = 1 for monotone networks, the comparison matrix for a W that contracts in a weighted maximum
norm. Then a barrier method (phase one of a semidefinite programme) that finds some Λ > 0 with 2Λ - ΛW - WᵀΛ > 0 or
shows that there seems to be none. What is found is a proposal: steps are chosen by it, and proofs prove it afresh.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from scipy.linalg import matrix_balance
from torch import Tensor

from equilip.errors import InputError
from equilip.operators import Operator
from equilip.rounding import Array
from equilip.solve.averaged import comparison_solution
from equilip.solve.metric import Metric, constructed, measure

#: Up to this many neurons a search is made; it takes 0.02 s at 80 neurons and 2 s at 600.
SEARCH_NEURONS = 600


def find_metric(W: Operator, lam: Tensor | None, *, seconds: float = 10.0) -> Metric | None:
    """A metric with μ > 0: from the multipliers at hand, else from those that can be found; None if none is.

    Tried in turn: what W knows by construction; ``lam``; Λ = 1; the multipliers of a W that contracts in a weighted
    ℓ∞ norm (mathematics 3.5); for at most ``SEARCH_NEURONS`` neurons a search that ends after ``seconds``.
    Raises InputError for a W with NaN or infinity.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in W.tensors):
        raise InputError("the network's W holds NaN or infinity; look for a training step that went astray")
    metric = constructed(W)
    if metric is not None and metric.mu > 0:
        return metric
    ones = torch.ones_like(W.dense().detach().diagonal())
    if not ones.numel():
        return Metric(ones, 1.0, 1.0, 1.0)
    candidates = [ones] if lam is None else [lam, ones]
    for candidate in candidates:
        metric = measure(W, candidate)
        if metric.mu > 0:
            return metric
    comparison = comparison_multipliers(W)
    if comparison is not None:
        metric = measure(W, comparison.to(ones.dtype))
        if metric.mu > 0:
            return metric
    if W.out_size > SEARCH_NEURONS:
        return None
    found = search(W.dense().detach().cpu().double().numpy(), seconds=seconds)
    if found is None:
        return None
    metric = measure(W, torch.from_numpy(found).to(ones))
    return metric if metric.mu > 0 else None


def comparison_multipliers(W: Operator) -> Tensor | None:
    """y / x (n,) float64 with (I - M) x = 1 and (I - M)ᵀ y = 1, where these are positive (mathematics 3.5), else None.

    M has W's diagonal and the absolute values of its other entries. They prove W well-posed whenever it
    contracts in some weighted maximum norm.
    """
    if not W.out_size:
        return W.dense().new_ones(0, dtype=torch.float64)
    x, y = comparison_solution(W), comparison_solution(W.transpose())
    if x is None or y is None:
        return None
    lam = y / x
    return lam if bool(lam.isfinite().all()) and bool((lam > 0).all()) else None


def margin(W: Array, lam: Array) -> float:
    """The largest m with 2Λ - ΛW - WᵀΛ >= 2mΛ, as an estimate; -inf where lam is not usable."""
    if not (np.isfinite(lam).all() and (lam > 0).all()):
        return -np.inf
    root = np.sqrt(lam)
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = root[:, None] * W / root[None, :]
    if not np.isfinite(weighted).all():
        return -np.inf
    return 1.0 - float(np.linalg.eigvalsh(0.5 * (weighted + weighted.T))[-1]) if lam.size else 1.0


def search(W: Array, *, seconds: float = 30.0) -> Array | None:
    """Multipliers (n,) with a positive margin for W (n, n), of geometric mean one; None if there seem to be none.

    Maximises s over 2Λ - ΛW - WᵀΛ >= s I, Λ > 0, ΣΛ = n, on the diagonally balanced W, along the
    central path; it ends as soon as s > 0, or when the path shows that s cannot become positive.
    """
    n = W.shape[0]
    if n == 0:
        return np.ones(0)
    if not np.isfinite(W).all() or not (np.diagonal(W) < 1.0).all():
        return None  # 2 lam_i (1 - W_ii) is on the diagonal
    deadline = time.monotonic() + seconds
    with np.errstate(all="ignore"):
        balanced, (scale, _) = matrix_balance(W, permute=False, separate=True)
    if not np.isfinite(balanced).all():
        balanced, scale = W, np.ones(n)
    found = _ascend(balanced, deadline)
    if found is None:
        return None
    logarithm = np.log(found) - 2.0 * np.log(scale)
    return np.exp(logarithm - logarithm.mean())


def _ascend(W: Array, deadline: float) -> Array | None:
    """The search itself, on a balanced W."""
    n = W.shape[0]
    A = W - np.eye(n)
    point = np.append(np.ones(n), 0.0)
    point[n] = -1.1 * float(np.linalg.eigvalsh(A + A.T)[-1]) - 0.1
    resolution = 1e-13 * max(1.0, float(np.abs(A).sum(axis=1).max(initial=0.0)))
    t = 2.0 * n / abs(point[n])
    value = _barrier(A, point)
    for _ in range(400):
        if point[n] > 0.0 or margin(W, point[:n]) > 0.0:
            return _centre(A, point[:n], deadline)
        step = _step(A, point, t)
        if step is None or time.monotonic() > deadline:
            return None
        direction, decrement = step
        if decrement < 0.3:
            if point[n] + 2.0 * n / t < 0.0 or 2.0 * n / t < resolution:
                return None
            t *= 20.0
            step = _step(A, point, t)
            if step is None:
                return None
            direction, decrement = step
        length = 1.0
        for _ in range(50):
            candidate = point + length * direction
            moved = _barrier(A, candidate)
            gain = t * (candidate[n] - point[n]) + value - moved
            if np.isfinite(moved) and gain >= 0.1 * length * decrement - 1e-11 * abs(value):
                point, value = candidate, moved
                break
            length *= 0.5
        else:
            return None
    return None


def _barrier(A: Array, point: Array) -> float:
    """-log det(-ΛA - AᵀΛ - sI) - Σ log Λ at point = (Λ, s); infinite outside."""
    lam, s = point[:-1], point[-1]
    if not (lam > 0).all():
        return np.inf
    weighted = lam[:, None] * A
    try:
        factor = np.linalg.cholesky(-(weighted + weighted.T) - s * np.eye(lam.size))
    except np.linalg.LinAlgError:
        return np.inf
    return -2.0 * float(np.sum(np.log(np.diagonal(factor)))) - float(np.sum(np.log(lam)))


def _step(A: Array, point: Array, t: float, *, fixed: bool = False) -> tuple[Array, float] | None:
    """Newton's direction for -t s + barrier on ΣΛ = n, and its squared decrement; ``fixed``: s stays."""
    lam, s = point[:-1], point[-1]
    n = lam.size
    weighted = lam[:, None] * A
    X = np.linalg.inv(-(weighted + weighted.T) - s * np.eye(n))
    X = 0.5 * (X + X.T)
    AX = A @ X
    # In units of lam itself, so that multipliers of very different sizes do no harm.
    gradient = np.append(2.0 * np.diagonal(AX) * lam - 1.0, np.trace(X) - t)
    hessian = np.empty((n + 1, n + 1))
    hessian[:n, :n] = 2.0 * (X * (AX @ A.T) + AX * AX.T) * lam[:, None] * lam[None, :] + np.eye(n)
    hessian[n, :n] = hessian[:n, n] = 2.0 * np.einsum("ij,ji->i", AX, X) * lam
    hessian[n, n] = np.einsum("ij,ji->", X, X)
    size = n if fixed else n + 1
    rights = np.stack([gradient, np.append(lam, 0.0)], axis=1)[:size]
    unit = 1.0 / np.sqrt(np.diagonal(hessian)[:size])
    scaled = hessian[:size, :size] * unit[:, None] * unit[None, :] + 1e-14 * np.eye(size)
    try:
        solved = np.linalg.solve(scaled, rights * unit[:, None]) * unit[:, None]
    except np.linalg.LinAlgError:
        return None
    multiplier = float(lam @ solved[:n, 0]) / float(lam @ solved[:n, 1])
    direction = np.zeros(n + 1)
    direction[:size] = multiplier * solved[:, 1] - solved[:, 0]
    decrement = float(-gradient @ direction)
    direction[:n] *= lam
    return (direction, decrement) if np.isfinite(direction).all() and decrement > -1e-6 else None


def _centre(A: Array, lam: Array, deadline: float) -> Array:
    """A few centring steps at s = 0, so that the multipliers found are not on the edge of what is possible."""
    point = np.append(lam, 0.0)
    value = _barrier(A, point)
    for _ in range(20):
        step = _step(A, point, 0.0, fixed=True)
        if not np.isfinite(value) or step is None or step[1] < 0.05 or time.monotonic() > deadline:
            break
        direction, decrement = step
        for length in 0.5 ** np.arange(30):
            candidate = point + length * direction
            moved = _barrier(A, candidate)
            if value - moved >= 0.1 * length * decrement:
                point, value = candidate, moved
                break
        else:
            break
    return point[:-1]
