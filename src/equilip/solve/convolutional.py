"""Which method solves a W that knows its multipliers by construction: by structure, then by cost.

Peaceman-Rachford in the Fourier domain wherever it applies: its steps cost half to two thirds of a convolution with
the composed kernel, and it needs about the square root of forward-backward's number of them. A plain input layer
under a metric that differs from pixel to pixel asks for a factorisation first, which only many inputs are worth. Few
inputs, different activations in one network, and W that are no convolution of one image go forward-backward.
Convolutions that contract in a weighted maximum norm take Jacobi's iteration, whose steps are the cheapest there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from equilip.activations import Blockwise
from equilip.operators import Contraction, Operator, Recurrence
from equilip.solve.channel_jacobi import ChannelJacobi, PreparedChannelJacobi
from equilip.solve.fourier import FourierPeacemanRachford, PreparedFourier
from equilip.solve.iteration import Equation, Prepared, Run, Solver, Stages
from equilip.solve.low_rank import rank
from equilip.solve.metric import Metric
from equilip.solve.preconditioned import PreconditionedForwardBackward, PreparedPreconditioned
from equilip.solve.refined import PreparedRefined

#: A factorisation of more columns takes more memory than it is worth.
MOST_COLUMNS = 6000

#: What float32 is good for; beyond it, float64 residuals correct float32 steps.
FLOAT32 = 1e-5


@dataclass(frozen=True, eq=False)
class PreparedConvolutional(Prepared):
    """One W; each method is made ready when first used."""

    W: Operator
    metric: Metric | None
    transposed: bool = False
    origin: PreparedConvolutional | None = None

    @cached_property
    def forward_backward(self) -> PreparedPreconditioned:
        if self.origin is not None:
            return self.origin.forward_backward.transpose()
        return PreconditionedForwardBackward().prepare(self.W, self.metric)

    @cached_property
    def fourier(self) -> PreparedFourier:
        if self.origin is not None:
            return self.origin.fourier.transpose()
        return FourierPeacemanRachford().prepare(self.W, self.metric)

    @cached_property
    def refined(self) -> PreparedRefined:
        W = self.W.to(torch.float32, None)
        return PreparedRefined(W.transpose() if self.transposed else W, self.fourier.to(torch.float32))

    @cached_property
    def jacobi(self) -> PreparedChannelJacobi:
        return self.origin.jacobi.transpose() if self.origin is not None else ChannelJacobi().prepare(self.W, None)

    @property
    def contracts(self) -> bool:
        """Whether W contracts in a weighted maximum norm by construction."""
        return isinstance(self.W if self.origin is None else self.origin.W, Contraction)

    @property
    def rate(self) -> float:  # type: ignore[override]
        return self.jacobi.rate if self.contracts else self.forward_backward.rate

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        if self.contracts:
            yield self.jacobi, None
            return
        if not self._worth_fourier(equation, tolerance):
            yield self.forward_backward, None
            return
        wide = equation.bias.dtype == torch.float64 and equation.bias.device.type == "cpu"
        if wide and equation.bias.shape[0] > 1:
            yield self.refined, None
        yield self.fourier, None

    def _worth_fourier(self, equation: Equation, tolerance: float) -> bool:
        W = self.W
        if not isinstance(W, Recurrence) or isinstance(equation.activation, Blockwise):
            return False
        columns = rank(W)
        if not W.uneven or "fourier" in self.__dict__ or (self.origin and "fourier" in self.origin.__dict__):
            return True
        steps = math.log(1 / tolerance) / -math.log(min(self.forward_backward.rate, 0.99999))
        return columns <= MOST_COLUMNS and 4 * columns < steps * equation.bias.shape[0]

    def run(self, equation: Equation, tolerance: float) -> Run[Any]:
        return next(self.stages(equation, tolerance))[0].run(equation, tolerance)

    def transpose(self) -> PreparedConvolutional:
        origin = self if self.origin is None else self.origin
        return PreparedConvolutional(self.W, self.metric, not self.transposed, None if self.transposed else origin)


@dataclass(frozen=True)
class Convolutional(Solver):
    """Chooses for a W that knows its multipliers by construction; see the module's text."""

    unrolls = False

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedConvolutional:
        return PreparedConvolutional(W, metric)
