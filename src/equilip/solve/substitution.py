"""Exact substitution: where no neuron depends on itself, the equilibrium is found level by level.

Feed-forward networks, residual networks and every other W whose graph has no cycle are of this kind; the
neurons are sorted into levels, each of which needs only the earlier ones. The order of the neurons in the
form does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations import Activation, Slopes, blocks, join
from equilip.errors import InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric


def levels(matrix: Tensor) -> tuple[Tensor, ...] | None:
    """The neurons in groups, each depending only on earlier groups; None where some neuron depends on itself."""
    if matrix.numel() and float(matrix[0, 0]) != 0:  # the usual case, told by one number
        return None
    if bool(matrix.diagonal().count_nonzero()):
        return None
    depends = matrix != 0
    remaining = torch.ones(matrix.shape[0], dtype=torch.bool, device=matrix.device)
    found: list[Tensor] = []
    while bool(remaining.any()):
        ready = remaining & ~(depends & remaining).any(dim=1)
        if not bool(ready.any()):
            return None
        found.append(ready.nonzero().flatten())
        remaining = remaining & ~ready
    return tuple(found)


def pick(sigma: Activation, index: Tensor, size: int) -> Activation:
    """σ on some of the neurons, in the order of ``index``."""
    if isinstance(sigma, Slopes):
        return Slopes(sigma.j[:, index], sigma.binary)
    own = [block for block, count in blocks(sigma, size) for _ in range(count)]
    return join([(own[i], 1) for i in index.tolist()])


class SubstitutionRun(Run[Tensor]):
    """One step finds everything; the state is z."""

    def __init__(self, equation: Equation, order: tuple[Tensor, ...]) -> None:
        self.equation = equation
        self.order = order
        self.cost = max(len(order), 1)

    def start(self, z: Tensor | None) -> Tensor:
        return self.step(self.equation.bias)

    def step(self, state: Tensor) -> Tensor:
        W, bias, sigma = self.equation.W.dense(), self.equation.bias, self.equation.activation
        n = bias.shape[1]
        found: list[Tensor] = []
        for depth, index in enumerate(self.order):
            s = bias[:, index]
            if depth:
                before = torch.cat(self.order[:depth])
                s = s + torch.cat(found, dim=1) @ W[index][:, before].mT
            found.append((sigma if len(index) == n else pick(sigma, index, n)).value(s))
        if not found:
            return bias
        return torch.cat(found, dim=1)[:, torch.cat(self.order).argsort()]

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> SubstitutionRun:
        return SubstitutionRun(self.equation.narrow(rows), self.order)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedSubstitution(Prepared):
    """The levels of one W."""

    order: tuple[Tensor, ...]
    rate: float = 0.0

    def run(self, equation: Equation, tolerance: float) -> SubstitutionRun:
        return SubstitutionRun(equation, self.order)

    def transpose(self) -> PreparedSubstitution:
        return PreparedSubstitution(self.order[::-1])


@dataclass(frozen=True)
class Substitution(Solver):
    """Exact for every W without cycles; ``prepare`` raises InputError for any other."""

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedSubstitution:
        order = levels(W.dense().detach())
        if order is None:
            raise InputError("substitution needs a W without cycles (a feed-forward network), and this one has some")
        return PreparedSubstitution(order)
