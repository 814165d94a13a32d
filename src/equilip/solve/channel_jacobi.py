"""Jacobi's iteration for convolutional contractions: every neuron solves its own equation exactly.

As :mod:`equilip.solve.jacobi`, with convolutions for matrices: z ← prox_α(N z + α bias), N = α (W - diag W).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.errors import IllPosedError
from equilip.operators import Contraction, Conv2d, Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric


class ChannelJacobiRun(Run[Tensor]):
    """The state is z."""

    def __init__(self, equation: Equation, prepared: PreparedChannelJacobi) -> None:
        self.equation, self.prepared = equation, prepared
        self.bias = equation.bias * prepared.alpha

    def start(self, z: Tensor | None) -> Tensor:
        return self.equation.activation.prox(self.bias, self.prepared.alpha) if z is None else z

    def step(self, state: Tensor) -> Tensor:
        own = self.prepared
        return self.equation.activation.prox(own.others.apply(state) * own.alpha + self.bias, own.alpha)

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> ChannelJacobiRun:
        return type(self)(self.equation.narrow(rows), self.prepared)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


class ChannelJacobiAdjointRun(ChannelJacobiRun):
    """The transposed iteration r ← Nᵀ κ r + g, whose v = α κ r solves the adjoint equation; the state is r."""

    def start(self, z: Tensor | None) -> Tensor:
        g = self.equation.bias
        return g if z is None else z / self.prepared.alpha - z + self.equation.W.plus(z, g)

    def step(self, state: Tensor) -> Tensor:
        return self.prepared.others.adjoint(self.read(state)) + self.equation.bias

    def read(self, state: Tensor) -> Tensor:
        return self.equation.activation.prox(state, self.prepared.alpha) * self.prepared.alpha


@dataclass(frozen=True, eq=False)
class PreparedChannelJacobi(Prepared):
    """α (n,), W without its diagonal, and on which side of the proximal map to iterate."""

    alpha: Tensor
    others: Conv2d
    rate: float
    adjoint: bool = False

    def run(self, equation: Equation, tolerance: float) -> ChannelJacobiRun:
        return (ChannelJacobiAdjointRun if self.adjoint else ChannelJacobiRun)(equation, self)

    def transpose(self) -> PreparedChannelJacobi:
        return replace(self, adjoint=not self.adjoint)


@dataclass(frozen=True)
class ChannelJacobi(Solver):
    """``prepare`` raises IllPosedError where W is no convolution that contracts, channel by channel."""

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedChannelJacobi:
        if not isinstance(W, Contraction) or W.spectrum() is None:
            raise IllPosedError("this iteration needs a convolution that contracts (nn.NEMONConv); use Jacobi()")
        own, size = W.channels()
        # x of (1 - M) x = 1 weighs the norm in which the step contracts.
        eye = torch.eye(len(own), dtype=own.dtype, device=own.device)
        x = torch.linalg.solve(eye - torch.diag(own) - size, torch.ones_like(own))
        rate = float((size @ x / (1 - own) / x).amax())
        return PreparedChannelJacobi(W.spread(1 / (1 - W.centre)), W.without_centre(), min(rate, 0.9999))
