"""The solver that is taken when none is named: by structure first, then by measured cost (``make bench``).

- No cycles in W: exact substitution.
- Networks of several tiers: one after the other.
- W that know their multipliers by construction (convolutions): see :mod:`equilip.solve.convolutional`.
- Otherwise Peaceman-Rachford with the step from the spectrum. Large batches in float64 at moderate tolerances iterate
  in float32 with float64 corrections.
- A Newton step costs as much as several hundred of these steps, so Newton only gets what is still open after
  thousands of them, or all where the spectrum predicts as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from equilip.operators import Operator, Tiers
from equilip.solve.convolutional import Convolutional
from equilip.solve.iteration import Equation, Prepared, Run, Solver, Stages
from equilip.solve.metric import Metric
from equilip.solve.newton import PreparedNewton
from equilip.solve.peaceman_rachford import PeacemanRachford, PreparedPeacemanRachford
from equilip.solve.refined import PreparedRefined
from equilip.solve.substitution import PreparedSubstitution, levels
from equilip.solve.tiers import TierByTier

#: Iterations beyond which a few factorisations per sample are cheaper.
MANY_ITERATIONS = 5000

#: Numbers in a batch from which float32 iterations with float64 corrections pay.
LARGE_BATCH = 16_384

#: Tolerances that a float32 solve and one float32 correction reach; finer ones take no longer in float64 alone.
MODERATE = 1e-5


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

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        if not isinstance(self.first, PreparedPeacemanRachford):
            yield self.first, None
            return
        predicted = math.log(1 / tolerance) / -math.log(max(self.first.rate, 1e-9))
        if predicted <= MANY_ITERATIONS:
            moderate = equation.bias.dtype == torch.float64 and tolerance >= MODERATE
            if moderate and equation.bias.numel() >= LARGE_BATCH and equation.bias.device.type == "cpu":
                yield self.refined, None
            yield self.first, MANY_ITERATIONS
        yield from PreparedNewton(self.first, warm=16).stages(equation, tolerance)

    def run(self, equation: Equation, tolerance: float) -> Run[Any]:
        return next(self.stages(equation, tolerance))[0].run(equation, tolerance)

    def transpose(self) -> PreparedAuto:
        return PreparedAuto(self.W.transpose(), self.first.transpose())

    def renewed(self, W: Operator) -> PreparedAuto | None:
        first = self.first.renewed(W)
        return None if first is None else PreparedAuto(W, first)


@dataclass(frozen=True)
class Auto(Solver):
    """Chooses by structure and by measured cost; see the module's text."""

    def prepare(self, W: Operator, metric: Metric | None) -> Prepared:
        if isinstance(W, Tiers):
            return TierByTier().prepare(W, metric)
        # The metric remembers what W knows of itself: reading it anew at every step of a training is slow.
        if (W.spectrum() if metric is None else metric.own) is not None:
            return Convolutional().prepare(W, metric)
        order = levels(W.dense().detach())
        if order is not None:
            return PreparedAuto(W, PreparedSubstitution(order))
        return PreparedAuto(W, PeacemanRachford().prepare(W, metric))
