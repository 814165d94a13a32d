"""float32 speed at float64 accuracy: the residual in float64, the correction in float32.

The equation is first solved in float32. Then, with r = σ(W z + bias) - z in float64 and J the slopes there,
the Newton correction δ = r + η, η = J (W η + W r), is again an equilibrium equation (mathematics 1.8), so
the same prepared Peaceman-Rachford solves it in float32. A residual is needed anyway to know when to stop;
nothing else is done in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.activations import Slopes
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver, Stages
from equilip.solve.metric import Metric
from equilip.solve.peaceman_rachford import PeacemanRachford

#: What one float32 solve is asked to gain; two gains fit between 1 and float32's resolution.
GAIN = 1e-4
MOST_GAIN = 1e-5


class RefinedRun(Run[Tensor]):
    """The state is z in the equation's own precision."""

    def __init__(self, equation: Equation, W32: Operator, base: Prepared, tolerance: float) -> None:
        self.equation = equation
        self.W32 = W32
        self.base = base
        self.tolerance = tolerance
        rounds = max(1, math.ceil(math.log(tolerance) / math.log(GAIN)))
        gain = max(tolerance ** (1 / rounds), MOST_GAIN)
        self.cost = max(2, math.ceil(math.log(0.5 * gain) / math.log(max(base.rate, 1e-3))))
        self.planned = rounds - 1

    def _iterate(self, equation: Equation, z: Tensor | None) -> Tensor:
        run = self.base.run(equation, self.tolerance)
        return run.read(run.advance(run.start(z), self.cost))

    def start(self, z: Tensor | None) -> Tensor:
        bias = self.equation.bias
        equation = Equation(self.W32, self.equation.activation.to(torch.float32), bias.float())
        return self._iterate(equation, None if z is None else z.float()).to(bias.dtype)

    def step(self, state: Tensor) -> Tensor:
        s = self.equation.W.plus(state, self.equation.bias)
        residual = (self.equation.activation.value(s) - state).float()
        j = self.equation.activation.slope(s).float()
        eta = self._iterate(
            Equation(self.W32, Slopes(j, self.equation.activation.binary), self.W32.apply(residual)), None
        )
        return state + residual + eta

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> RefinedRun:
        return RefinedRun(self.equation.narrow(rows), self.W32, self.base, self.tolerance)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedRefined(Prepared):
    """W and its resolvent in float32; what to go on with where corrections in float32 do not lead to the goal."""

    W32: Operator
    base: Prepared
    rescue: Prepared | None = None
    rate: float = 1e-3

    def run(self, equation: Equation, tolerance: float) -> RefinedRun:
        return RefinedRun(equation, self.W32, self.base, tolerance)

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        yield self, None
        if self.rescue is not None:
            yield self.rescue, None

    def transpose(self) -> PreparedRefined:
        rescue = None if self.rescue is None else self.rescue.transpose()
        return replace(self, W32=self.W32.transpose(), base=self.base.transpose(), rescue=rescue)


@dataclass(frozen=True)
class Refined(Solver):
    """Peaceman-Rachford in float32 with corrections from float64 residuals; for equations in float64.

    A large or very skew W asks more of a correction than float32 holds; then Peaceman-Rachford in float64 goes on.
    """

    unrolls = False

    alpha: float | None = None

    def __post_init__(self) -> None:
        PeacemanRachford(self.alpha)  # raises InputError for a step that makes no sense

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedRefined:
        base = PeacemanRachford(self.alpha).prepare(W, metric)
        return PreparedRefined(W.to(torch.float32, None), base.to(torch.float32), base)
