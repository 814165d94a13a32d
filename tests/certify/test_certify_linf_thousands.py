"""Thousands of random contracting networks: nothing sampled or attacked leaves its box or is steeper than its bound.

Many small networks are one form, block by block, so that they are solved, boxed and bounded together. They are near to
losing their equilibrium (measures up to 1 - 1e-9), in norms whose weights differ by many orders, in both formats.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from equilip.certify import reachable
from equilip.certify.linf import RowSearch
from equilip.form import Form, dense
from equilip.rounding import gamma
from equilip.solve import Newton, Prover, Settings, equilibrium

F64 = torch.float64
#: Of each network.
N, P, Q = 3, 2, 2
MEASURES = (-2.0, 0.0, 0.9, 0.999, 1 - 1e-6, 1 - 1e-9)
SCALES = (1e-6, 0.1, 1.0, 30.0, 1e4)
#: Of the logarithms of the weights η: between e^-25 and e^25, or so.
SPREADS = (0.0, 1.0, 8.0)

Array = np.ndarray


def measure(W: Array, eta: Array, terms: int) -> float:
    """max_i w_ii + Σ_j≠i |w_ij| η_j / η_i, rounded up by what sums of that many terms may be wrong by."""
    size = np.abs(W)
    rounding = gamma(terms) * float(((size @ eta) / eta + 1).max())
    np.fill_diagonal(size, np.diagonal(W))
    return float(((size @ eta) / eta).max()) + rounding


def networks(seed: int, count: int, dtype: torch.dtype) -> list[tuple[Array, ...]]:
    """(W, U, b, C) of ``count`` networks, as stored in ``dtype``, and the weights η that they contract in.

    Left out are only those whose measure is so near to 1 that the rounding of sums hides the difference.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[Array, ...]] = []
    while len(kept) < count:
        m, scale, spread = (rng.choice(choices) for choices in (MEASURES, SCALES, SPREADS))
        T, d = scale * rng.standard_normal((N, N)), spread * rng.standard_normal(N)
        W = np.exp(-d)[:, None] * T * np.exp(d) + np.diag(m - np.abs(T).sum(1))
        eta = np.exp(-d)
        U = rng.choice([1e-3, 1.0, 1e3]) * eta[:, None] * rng.standard_normal((N, P))
        b, C = eta * rng.standard_normal(N), rng.standard_normal((Q, N)) / eta
        own = tuple(torch.from_numpy(part).to(dtype).double().numpy() for part in (W, U, b, C))
        if measure(own[0], eta, 4 * N * count) < 1:
            kept.append((*own, eta))
    return kept


def joined(parts: list[tuple[Array, ...]], dtype: torch.dtype) -> Form:
    """All of them as one form."""
    W, U, C = (torch.block_diag(*(torch.from_numpy(part[k]) for part in parts)).to(dtype) for k in (0, 1, 3))
    b = torch.from_numpy(np.concatenate([part[2] for part in parts])).to(dtype)
    return dense(W, U, b, C, b.new_zeros(len(C)))


def steepest(parts: list[tuple[Array, ...]]) -> Array:
    """The ℓ∞ slopes of all outputs, (count Q,): exactly the largest over all 2³ patterns of slopes 0 and 1."""
    W, U, _, C = (np.stack([part[k] for part in parts]) for k in range(4))
    best = np.zeros((len(parts), Q))
    for pattern in product((0.0, 1.0), repeat=N):
        d = np.array(pattern)[:, None]
        J = C @ np.linalg.solve(np.eye(N) - d * W, d * U)
        best = np.maximum(best, np.abs(J).sum(2))
    return best.reshape(-1)


def paper(parts: list[tuple[Array, ...]]) -> Array:
    """The literature's formula in the norm that a network was made for, (count,), its measure rounded up."""
    found = []
    for W, U, _, C, eta in parts:
        through = float((np.abs(U).sum(1) / eta).max() * (np.abs(C) @ eta).max())
        found.append(through / (1 - max(0.0, measure(W, eta, 4 * N * len(parts)))))
    return np.array(found)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(("method", "blocks", "count"), [("comparison", 25, 50), ("scale", 20, 10)])
def test_no_piece_of_thousands_is_steeper(dtype: torch.dtype, method: str, blocks: int, count: int) -> None:
    tight = 0.0
    for seed in range(blocks):
        parts = networks(seed, count, dtype)
        search = RowSearch.of(joined(parts, dtype), raw=False, method=method)
        found = steepest(parts)
        assert bool((found <= search.bounds * (1 + 1e-9)).all())
        assert bool((search.bounds.reshape(-1, Q).max(1) <= paper(parts) * (1 + 1e-6)).all())
        tight = max(tight, float((found / search.bounds).max()))
    # A bound that is never nearly reached would be no test.
    assert tight > 0.9


def climbed(form: Form, lower: torch.Tensor, upper: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (targets, p) inside the box that push each neuron and output, either way, as far as a search gets.

    One row for each of the 2 (N + Q) directions; every network of the form takes its own steps. The equilibria are
    returned as well.
    """
    generator = torch.Generator().manual_seed(seed)
    count, targets = len(lower) // P, 2 * (N + Q)
    newton = Settings(solver=Newton(), tolerance=1e-12, raise_on_failure=False)

    def heights(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(targets, count): what row t wants to be large, of every network."""
        both = torch.cat([z.reshape(-1, count, N), y.reshape(-1, count, Q)], 2).repeat(1, 1, 2)
        sign = torch.cat([torch.ones(N + Q, dtype=F64), -torch.ones(N + Q, dtype=F64)])
        return (both * sign).diagonal(dim1=0, dim2=2).mT

    def draw() -> torch.Tensor:
        return torch.rand(targets, len(lower), generator=generator, dtype=F64)

    x = lower + draw().round() * (upper - lower)
    best = heights(*(lambda found: (found.z, found.y))(equilibrium(form, x, newton)))
    for turn in range(10):
        # Corners first, then ever smaller steps from the best point so far.
        step = (draw() - 0.5) * 4 * 0.5**turn * (upper - lower)
        other = lower + draw().round() * (upper - lower) if turn < 4 else (x + step).clamp(lower, upper)
        found = equilibrium(form, other, newton)
        now = heights(found.z, found.y)
        better = (now > best).repeat_interleave(P, dim=1)
        x, best = torch.where(better, other, x), torch.maximum(now, best)
    return x, equilibrium(form, x, newton).z


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_nothing_climbs_out_of_the_boxes_of_a_thousand_networks(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(7)
    reached = []
    for seed in range(16):
        parts = networks(1000 + seed, 32, dtype)
        form = joined(parts, dtype)
        exact = form.to(F64)
        lower = torch.from_numpy(rng.standard_normal(P * len(parts)))
        width = torch.from_numpy(rng.choice([0.0, 1e-3, 1.0, 100.0], P * len(parts)))
        upper = lower + width
        x, z = climbed(exact, lower, upper, seed)
        doubt = Prover(exact).error_by_neuron(x, z)
        y = exact.output(z, x)
        slack = doubt @ exact.C.dense().abs().mT + 1e-12 * z.abs() @ exact.C.dense().abs().mT
        for limit in (0, 3, 1000):
            found = reachable(form, lower[None], upper[None], limit=limit)
            assert bool((found.z_lower <= z + doubt).all() and (z - doubt <= found.z_upper).all())
            assert bool((found.lower <= y + slack).all() and (y - slack <= found.upper).all())
        span = (found.z_upper - found.z_lower)[0]
        moved = z.amax(0) - z.amin(0)
        reached.append(float((moved / span.clamp(min=1e-300)).amax()))
    assert max(reached) > 0.9  # boxes are filled by some neurons, so that a smaller box would have been caught


def test_a_box_that_is_too_small_is_caught() -> None:
    """The same search finds inputs outside boxes whose sides are shrunk by a tenth."""
    parts = networks(5, 20, F64)
    form = joined(parts, F64)
    lower = torch.from_numpy(np.random.default_rng(0).standard_normal(P * len(parts)))
    upper = lower + 1.0
    x, z = climbed(form, lower, upper, 0)
    doubt = Prover(form).error_by_neuron(x, z)
    found = reachable(form, lower[None], upper[None])
    middle, half = 0.5 * (found.z_lower + found.z_upper), 0.45 * (found.z_upper - found.z_lower)
    smaller = replace(found, z_lower=middle - half, z_upper=middle + half)
    outside = (z - doubt > smaller.z_upper) | (z + doubt < smaller.z_lower)
    assert bool(outside.any())
