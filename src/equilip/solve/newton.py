"""Semismooth Newton: z ← z + δ with (I - J W) δ = σ(W z + bias) - z, J the slopes at z.

It finds the equilibrium of hard cases (condition numbers where splittings need hundreds of steps) in a few
steps, each of which costs one factorisation per sample. A step that leads far astray is replaced by a few
steps of Peaceman-Rachford, which also finishes what Newton leaves open: convergence never rests on Newton alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver, Stages
from equilip.solve.metric import Metric
from equilip.solve.peaceman_rachford import PeacemanRachford, PreparedPeacemanRachford

#: Batched LU beyond this size goes wrong or hangs in some CPU builds of torch (pytorch issue 142815).
LARGEST_BATCHED = 128

#: Newton steps after which no more are hoped for (the hardest problems measured took 24).
ENOUGH = 60

#: Numbers held at once by the batch of matrices.
WORKSPACE = 8_000_000


def newton_step(W: Tensor, j: Tensor, residual: Tensor) -> Tensor:
    """δ with (I - diag(j) W) δ = residual, per sample: (n, n), (batch, n), (batch, n) -> (batch, n).

    Not finite where a matrix is singular. Matrices larger than LARGEST_BATCHED on a CPU are solved one at a time, out
    of reach of the fault in the batched routine of some builds.
    """
    n = W.shape[0]
    if W.device.type == "cpu" and n > LARGEST_BATCHED:
        return torch.stack([_one_step(W, own, r) for own, r in zip(j, residual, strict=True)])
    eye = torch.eye(n, dtype=W.dtype, device=W.device)
    size = max(1, WORKSPACE // max(n * n, 1))
    parts = [
        _finite_where_solved(*torch.linalg.solve_ex(eye - rows[:, :, None] * W, r))
        for rows, r in zip(j.split(size), residual.split(size), strict=True)
    ]
    return torch.cat(parts)


def _one_step(W: Tensor, j: Tensor, residual: Tensor) -> Tensor:
    """The same for one sample, (n,): a neuron of slope zero moves by its residual, so that only the others make a
    system; with half of the neurons active it costs an eighth."""
    active = j.nonzero().flatten()
    if not active.numel():
        return residual
    rows = W[active] * j[active, None]
    matrix = -rows[:, active]
    matrix.diagonal().add_(1.0)
    right = residual[active] + rows @ residual.index_fill(0, active, 0.0)
    x, info = torch.linalg.solve_ex(matrix, right)
    return residual.index_copy(0, active, _finite_where_solved(x, info))


def _finite_where_solved(x: Tensor, info: Tensor) -> Tensor:
    return torch.where((info == 0)[..., None], x, torch.nan)


class NewtonRun(Run[Tensor]):
    """The state is z."""

    #: Steps of Peaceman-Rachford that stand in for a refused Newton step.
    fallback = 8

    def __init__(self, equation: Equation, base: PreparedPeacemanRachford, warm: int, tolerance: float) -> None:
        self.equation = equation
        self.base = base
        self.warm = warm
        self.tolerance = tolerance

    def start(self, z: Tensor | None) -> Tensor:
        return self._split(self.equation, z, self.warm)

    def _split(self, equation: Equation, z: Tensor | None, steps: int) -> Tensor:
        run = self.base.run(equation, self.tolerance)
        return run.read(run.advance(run.start(z), steps))

    def step(self, state: Tensor) -> Tensor:
        W, sigma, bias = self.equation.W, self.equation.activation, self.equation.bias
        s = W.plus(state, bias)
        residual = sigma.value(s) - state
        proposal = state + newton_step(W.dense(), sigma.slope(s), residual)
        # While the set of active neurons still changes the residual may grow for a step or two, and Newton finds
        # the way; only what leaves all bounds is not followed.
        after = sigma.value(W.plus(proposal, bias)) - proposal
        sane = after.norm(dim=-1) <= 1e3 * residual.norm(dim=-1)
        if bool(sane.all()):
            return proposal
        rows = (~sane).nonzero().flatten()
        fallback = self._split(self.equation.narrow(rows), state[rows], self.fallback)
        return proposal.index_copy(0, rows, fallback)

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> NewtonRun:
        return NewtonRun(self.equation.narrow(rows), self.base, self.warm, self.tolerance)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedNewton(Prepared):
    """The splitting that starts, and that stands in for steps that are refused."""

    base: PreparedPeacemanRachford
    warm: int
    rate: float = 0.1

    def run(self, equation: Equation, tolerance: float) -> NewtonRun:
        return NewtonRun(equation, self.base, self.warm, tolerance)

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        # Where Newton has not arrived by then it cycles, and the splitting finishes alone.
        yield self, ENOUGH
        yield self.base, None

    def transpose(self) -> PreparedNewton:
        return replace(self, base=self.base.transpose())


@dataclass(frozen=True)
class Newton(Solver):
    """``warm`` steps of Peaceman-Rachford, then Newton steps."""

    warm: int = 16

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedNewton:
        return PreparedNewton(PeacemanRachford().prepare(W, metric), self.warm)
