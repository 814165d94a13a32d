"""Multi-tier networks, tier by tier: an equilibrium of each, with what the tier before it hands over as a bias.

W is lower block triangular, so the first tier knows nothing of the others. Each tier is a convolutional equation of its
own and goes the way of :mod:`equilip.solve.convolutional`. Where every tier reaches the tolerance, so does the whole.
The adjoint equation, with Wᵀ, starts at the last tier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from equilip.activations import Activation, Slopes, blocks, join
from equilip.errors import InputError
from equilip.operators import Operator, Tiers, Transposed
from equilip.solve import loop
from equilip.solve.convolutional import Convolutional
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric, constructed

#: For each tier a number of steps, where it is known.
Steps = list[int | None]

#: The most iterations that one tier gets in a sweep.
MOST = 20_000

#: The tolerance of a tier, as a share of the whole's: sums are not rounded alike in both.
SHARE = 0.9


class TierByTierRun(Run[Tensor | None]):
    """The state is z, or nothing yet. One step is a sweep over all tiers, and nearly always the only one."""

    planned = 1

    def __init__(self, equation: Equation, prepared: PreparedTiers, tolerance: float) -> None:
        self.equation = equation
        self.prepared = prepared
        self.tolerance = tolerance

    def start(self, z: Tensor | None) -> Tensor | None:
        return z

    def step(self, state: Tensor | None) -> Tensor:
        own, W = self.prepared, self.prepared.W
        sizes = W.sizes
        bias = self.equation.bias.split(sizes, dim=1)
        sigma = _by_tier(self.equation.activation, sizes)
        found = list(self.read(state).split(sizes, dim=1))
        order = range(len(sizes))
        before: int | None = None
        cost = 0
        for i in reversed(order) if own.transposed else order:
            part: Operator = W.parts[i]
            b = bias[i]
            if before is not None:
                link = W.links[min(i, before)]
                b = b - (link.adjoint(found[before]) if own.transposed else link.apply(found[before]))
            outcome = loop.solve(
                own.tiers[i],
                Equation(part.transpose() if own.transposed else part, sigma[i], b),
                None if state is None else found[i],
                tolerance=SHARE * self.tolerance,
                limit=MOST,
                expected=own.expected[own.transposed][i],
            )
            own.latest[own.transposed][i] = loop.learn(outcome.report, own.expected[own.transposed][i])
            found[i], before = outcome.z, i
            cost += outcome.report.iterations
        self.cost = max(cost, 1)
        return torch.cat(found, dim=1)

    def read(self, state: Tensor | None) -> Tensor:
        return torch.zeros_like(self.equation.bias) if state is None else state

    def narrow(self, rows: Tensor) -> TierByTierRun:
        run = TierByTierRun(self.equation.narrow(rows), self.prepared, self.tolerance)
        run.cost = self.cost
        return run

    def select(self, state: Tensor | None, rows: Tensor) -> Tensor | None:
        return None if state is None else state[rows]


def _by_tier(sigma: Activation, sizes: list[int]) -> list[Activation]:
    """σ on the neurons of each tier."""
    if isinstance(sigma, Slopes):
        return [Slopes(j, sigma.binary) for j in sigma.j.split(sizes, dim=-1)]
    own = blocks(sigma, sum(sizes))
    edges = list(accumulate((count for _, count in own), initial=0))
    tiers = list(accumulate(sizes, initial=0))
    return [
        join(
            [
                (block, min(stop, edge + count) - max(start, edge))
                for (block, count), edge in zip(own, edges[:-1], strict=True)
                if max(start, edge) < min(stop, edge + count)
            ]
        )
        for start, stop in pairwise(tiers)
    ]


@dataclass(frozen=True, eq=False)
class PreparedTiers(Prepared):
    """W, the solver of each of its tiers, and what is known of each; ``transposed``: whether this is for Wᵀ.

    expected: after how many steps to read the residual of each tier, for W and for Wᵀ. It stays as it is, so that the
    same equation is solved alike again; ``latest`` is what the solves have taught since, for a W near by.
    """

    W: Tiers
    tiers: tuple[Prepared, ...]
    metrics: tuple[Metric, ...]
    expected: tuple[Steps, Steps]
    latest: tuple[Steps, Steps]
    transposed: bool = False
    rate: float = 0.0

    def run(self, equation: Equation, tolerance: float) -> TierByTierRun:
        return TierByTierRun(equation, self, tolerance)

    def transpose(self) -> PreparedTiers:
        return replace(self, tiers=tuple(tier.transpose() for tier in self.tiers), transposed=not self.transposed)

    def renewed(self, W: Operator) -> PreparedTiers | None:
        # Steps come from the spectra as they were: every step size converges, and these change slowly.
        return _prepare(W, self.metrics, self.latest) if isinstance(W, Tiers) and not self.transposed else None


@dataclass(frozen=True)
class TierByTier(Solver):
    """For networks of ``nn.MultiTierMonotone``. An iteration limit is looked at when all tiers are done."""

    unrolls = False

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedTiers:
        if isinstance(W, Transposed) and isinstance(W.base, Tiers):
            return self.prepare(W.base, metric).transpose()
        if not isinstance(W, Tiers):
            raise InputError("this solver is for multi-tier networks; leave the choice to Auto()")
        metrics = tuple(found for part in W.parts if (found := constructed(part)) is not None)
        unknown: Steps = [None] * len(metrics)
        return _prepare(W, metrics, (unknown, unknown))


def _prepare(W: Tiers, metrics: tuple[Metric, ...], expected: tuple[Steps, Steps]) -> PreparedTiers:
    solver = Convolutional()
    tiers = tuple(solver.prepare(part, metric) for part, metric in zip(W.parts, metrics, strict=True))
    own, latest = ((list(expected[0]), list(expected[1])) for _ in range(2))
    return PreparedTiers(W, tiers, metrics, own, latest)
