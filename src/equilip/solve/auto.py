"""The solver that is taken when none is named: by structure first, then by measured cost.

- No cycles in W: exact substitution.
- Otherwise Peaceman-Rachford with the step from the spectrum; large batches in float64 iterate in float32 with
  float64 corrections (2 to 3 times faster, measured by ``make bench``).
- What is still open after that, or where the spectrum predicts more iterations than a factorisation per sample
  costs, goes to semismooth Newton, which falls back on Peaceman-Rachford.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver, Stages
from equilip.solve.metric import Metric
from equilip.solve.newton import PreparedNewton
from equilip.solve.peaceman_rachford import PeacemanRachford, PreparedPeacemanRachford
from equilip.solve.refined import PreparedRefined
from equilip.solve.substitution import PreparedSubstitution, levels

#: Predicted iterations beyond which a factorisation per sample is cheaper.
MANY_ITERATIONS = 150

#: Numbers in a batch from which float32 iterations with float64 corrections pay.
LARGE_BATCH = 16_384

#: float64 tolerances above this are within reach of float32 alone.
FINE = 1e-5


@dataclass(frozen=True, eq=False)
class PreparedAuto(Prepared):
    """One W, and the stages that a batch may need; each is made when first used."""

    W: Operator
    first: Prepared

    @property
    def rate(self) -> float:  # type: ignore[override]
        return self.first.rate

    @cached_property
    def refined(self) -> PreparedRefined:
        assert isinstance(self.first, PreparedPeacemanRachford)
        return PreparedRefined(self.W.to(torch.float32, None), self.first.to(torch.float32))

    @cached_property
    def newton(self) -> PreparedNewton:
        assert isinstance(self.first, PreparedPeacemanRachford)
        return PreparedNewton(self.first, warm=16)

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        if not isinstance(self.first, PreparedPeacemanRachford):
            return ((self.first, None),)
        predicted = math.log(1 / tolerance) / -math.log(max(self.first.rate, 1e-9))
        if predicted > MANY_ITERATIONS:
            return ((self.newton, None), (self.first, None))
        limit = 2 * MANY_ITERATIONS
        fine = equation.bias.dtype == torch.float64 and tolerance < FINE
        if fine and equation.bias.numel() >= LARGE_BATCH and equation.bias.device.type == "cpu":
            return ((self.refined, limit), (self.first, limit), (self.newton, None))
        return ((self.first, limit), (self.newton, None))

    def run(self, equation: Equation, tolerance: float) -> Run[Any]:
        return self.stages(equation, tolerance)[0][0].run(equation, tolerance)

    def transpose(self) -> PreparedAuto:
        return PreparedAuto(self.W.transpose(), self.first.transpose())


@dataclass(frozen=True)
class Auto(Solver):
    """Chooses by structure and by measured cost; see the module's text."""

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedAuto:
        order = levels(W.dense().detach())
        if order is not None:
            return PreparedAuto(W, PreparedSubstitution(order))
        return PreparedAuto(W, PeacemanRachford().prepare(W, metric))
