"""Multipliers for a network whose multipliers nobody knows.

A Lam > 0 with 2 Lam - Lam W - W' Lam > 0 is looked for among recipes that are exact for their kind of network (Lam = 1
for monotone ones, comparison matrices for contractions in a weighted maximum norm, layer by layer for feed-forward
ones), and then by a barrier method for the general case. What is returned is a proposal; its proof is elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from scipy.linalg import matrix_balance

from equilip.certify.system import Indices, System
from equilip.rounding import Array


def margin(W: Array, lam: Array) -> float:
    """The largest m with 2 Lam - Lam W - W' Lam >= 2 m Lam, as an estimate; -inf where lam is not usable."""
    if not (np.isfinite(lam).all() and (lam > 0).all()):
        return -np.inf
    root = np.sqrt(lam)
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = root[:, None] * W / root[None, :]
    if not np.isfinite(weighted).all():
        return -np.inf
    return 1.0 - float(np.linalg.eigvalsh(0.5 * (weighted + weighted.T))[-1]) if lam.size else 1.0


def candidates(system: System, known: Array | None, *, seconds: float = 30.0) -> list[Array]:
    """Multipliers (n,) with a positive margin: all that are cheap to propose, else what a search finds, else none.

    ``known`` are the parametrisation's, where it has any.
    """
    W = system.W.mid
    if not (np.diagonal(W) < 1.0).all():
        return []  # 2 lam_i (1 - W_ii) is on the diagonal: no multipliers exist
    cheap = [candidate for candidate in _recipes(system, known) if margin(W, candidate) > 0.0]
    if cheap:
        return cheap
    found = search(W, seconds=seconds)
    return [] if found is None else [found]


def _recipes(system: System, known: Array | None) -> Iterator[Array]:
    W = system.W.mid
    if known is not None:
        yield known
    yield np.ones(W.shape[0])
    comparison = comparison_multipliers(W)
    if comparison is not None:
        yield comparison
    layers = layers_of(W)
    if layers is not None:
        yield feedforward_multipliers(system, layers)


def comparison_multipliers(W: Array) -> Array | None:
    """y / x with (I - M) x = 1 and (I - M)' y = 1, where these are positive (mathematics 3.5); None otherwise.

    M has W's diagonal and the absolute values of its other entries. They prove W well-posed whenever it
    contracts in some weighted maximum norm.
    """
    n = W.shape[0]
    compared = np.abs(W)
    np.fill_diagonal(compared, np.diagonal(W))
    ones = np.ones(n)
    try:
        x = np.linalg.solve(np.eye(n) - compared, ones)
        y = np.linalg.solve(np.eye(n) - compared.T, ones)
    except np.linalg.LinAlgError:
        return None
    if not ((x > 0).all() and (y > 0).all() and np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    return np.asarray(y / x, dtype=np.float64)


def layers_of(W: Array) -> list[Indices] | None:
    """The neurons of a feed-forward W in layers, each reading only those before it; None if W has a loop."""
    n = W.shape[0]
    reads = W != 0.0
    depth = np.zeros(n, dtype=np.int64)
    waiting = reads.sum(axis=1)
    ready = np.flatnonzero(waiting == 0)
    placed = np.zeros(n, dtype=bool)
    layers = []
    while ready.size:
        layers.append(ready)
        placed[ready] = True
        depth[ready] = len(layers)
        waiting = waiting - reads[:, ready].sum(axis=1)
        ready = np.flatnonzero((waiting == 0) & ~placed)
    return layers if placed.all() else None


def feedforward_multipliers(system: System, layers: list[Indices]) -> Array:
    """The closed form of mathematics 9.1, for any feed-forward W with or without skips: no search at all.

    Layer by layer, with K the inverse of the matrix built so far (the input's block being the identity) and
    M = N K N' for the layer's rows N of [U W], the multiplier of neuron i is 1 / sum_j |M_ij|, so that
    2 Lam - Lam M Lam is at least Lam.
    """
    n = system.size
    inputs = system.scaled_inputs.mid
    # The input acts through an orthogonal basis of its row space: at most n directions.
    basis = np.linalg.qr(inputs.T)[1].T
    width = basis.shape[1]
    W = system.W.mid
    lam = np.ones(n)
    order: list[int] = []
    K = np.eye(width)
    for layer in layers:
        N = np.hstack([basis[layer], W[np.ix_(layer, np.array(order, dtype=np.int64))]])
        NK = N @ K
        M = NK @ N.T
        total = np.abs(M).sum(axis=1)
        # Neurons that ignore what comes before them may have any multiplier.
        floor = 1e-12 * float(total.max(initial=0.0)) or 1.0
        own = 1.0 / np.maximum(total, floor)
        lam[layer] = own
        schur = np.diag(2.0 * own) - own[:, None] * M * own[None, :]
        inverse = np.linalg.inv(schur)
        across = (own[:, None] * NK).T @ inverse
        K = np.block([[K + across @ (own[:, None] * NK), across], [across.T, inverse]])
        K = 0.5 * (K + K.T)
        order += layer.tolist()
    return lam


def search(W: Array, *, seconds: float = 30.0) -> Array | None:
    """Multipliers with a positive margin by a barrier method, or None when there seem to be none.

    Maximises s over 2 Lam - Lam W - W' Lam >= s I, Lam > 0, sum Lam = n, on the diagonally balanced W, along the
    central path; it ends as soon as s > 0, or when the path shows that s cannot become positive.
    """
    n = W.shape[0]
    deadline = time.monotonic() + seconds
    with np.errstate(all="ignore"):
        balanced, (scale, _) = matrix_balance(W, permute=False, separate=True)
    if not np.isfinite(balanced).all():
        balanced, scale = W, np.ones(n)
    A = balanced - np.eye(n)
    point = np.append(np.ones(n), 0.0)
    point[n] = -1.1 * float(np.linalg.eigvalsh(A + A.T)[-1]) - 0.1
    resolution = 1e-13 * max(1.0, float(np.abs(A).sum(axis=1).max(initial=0.0)))
    t = 2.0 * n / abs(point[n])
    value = _barrier(A, point)
    for _ in range(400):
        if point[n] > 0.0 or margin(balanced, point[:n]) > 0.0:
            return _centre(A, point[:n], deadline) / scale**2
        step = _phase_step(A, point, t)
        if step is None or time.monotonic() > deadline:
            return None
        direction, decrement = step
        if decrement < 0.3:
            if point[n] + 2.0 * n / t < 0.0 or 2.0 * n / t < resolution:
                return None
            t *= 20.0
            step = _phase_step(A, point, t)
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
    """-log det(-Lam A - A' Lam - s I) - sum log Lam at point = (Lam, s); infinite outside."""
    lam, s = point[:-1], point[-1]
    if not (lam > 0).all():
        return np.inf
    weighted = lam[:, None] * A
    try:
        factor = np.linalg.cholesky(-(weighted + weighted.T) - s * np.eye(lam.size))
    except np.linalg.LinAlgError:
        return np.inf
    return -2.0 * float(np.sum(np.log(np.diagonal(factor)))) - float(np.sum(np.log(lam)))


def _phase_step(A: Array, point: Array, t: float, *, fixed: bool = False) -> tuple[Array, float] | None:
    """Newton's direction for -t s + barrier on sum Lam = n, and its squared decrement; ``fixed``: s stays."""
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
        step = _phase_step(A, point, 0.0, fixed=True)
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
