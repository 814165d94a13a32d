"""Multipliers for a network whose multipliers nobody knows.

A Lam > 0 with 2 Lam - Lam W - W' Lam > 0 is looked for among recipes that are exact for their kind of network (Lam = 1
for monotone ones, comparison matrices for contractions in a weighted maximum norm, layer by layer for feed-forward
ones), and then by the search of :mod:`equilip.solve.multipliers`. What is returned is a proposal; its proof is
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from equilip.certify.system import Indices, System
from equilip.operators import Dense
from equilip.rounding import Array
from equilip.solve.multipliers import comparison_multipliers, margin, search
from equilip.solve.substitution import levels


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
    tensor = torch.from_numpy(np.ascontiguousarray(W))
    comparison = comparison_multipliers(Dense(tensor))
    if comparison is not None:
        yield comparison.numpy()
    layers = levels(tensor)
    if layers is not None:
        yield feedforward_multipliers(system, [layer.numpy() for layer in layers])


def feedforward_multipliers(system: System, layers: Sequence[Indices]) -> Array:
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
