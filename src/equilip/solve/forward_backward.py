"""Forward-backward splitting: one application of W a step and no factorisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from equilip.errors import InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric, require


class ForwardBackwardRun(Run[Tensor]):
    """z ← G_α(z - α(z - W z - bias)); the state is z."""

    def __init__(self, equation: Equation, alpha: float) -> None:
        self.equation = equation
        self.alpha = alpha

    def start(self, z: Tensor | None) -> Tensor:
        return self.equation.bias.new_zeros(self.equation.bias.shape) if z is None else z

    def step(self, state: Tensor) -> Tensor:
        forward = state + self.alpha * (self.equation.W.plus(state, self.equation.bias) - state)
        return self.equation.activation.prox(forward, self.alpha)

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> ForwardBackwardRun:
        return ForwardBackwardRun(self.equation.narrow(rows), self.alpha)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True)
class PreparedForwardBackward(Prepared):
    """The step size; there is nothing else to prepare."""

    alpha: float
    rate: float

    def run(self, equation: Equation, tolerance: float) -> ForwardBackwardRun:
        return ForwardBackwardRun(equation, self.alpha)

    def transpose(self) -> PreparedForwardBackward:
        return self


@dataclass(frozen=True)
class ForwardBackward(Solver):
    """A Λ-contraction for α in (0, 2μ/‖H‖²), fastest at α = μ/‖H‖² (mathematics 1.7).

    ``alpha``: the step; None takes the fastest that is proven for the metric.
    """

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(f"the step alpha must be positive, got {self.alpha}")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedForwardBackward:
        if self.alpha is not None and metric is None:
            return PreparedForwardBackward(self.alpha, 0.99)
        metric = require(metric)
        alpha = self.alpha if self.alpha is not None else metric.mu / metric.norm**2
        # Zero for a single neuron, and by rounding a little less.
        square = max(1 - 2 * alpha * metric.mu + (alpha * metric.norm) ** 2, 0.0)
        return PreparedForwardBackward(alpha, math.sqrt(square) if square < 1 else 0.999)
