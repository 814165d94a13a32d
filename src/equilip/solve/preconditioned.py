"""Forward-backward splitting with Λ as preconditioner: one application of X = Λ (I - W) a step.

    z ← prox_{αΛ}(z - α (X z - Λ bias)),    α = μ/‖X‖²

contracts in the Euclidean norm by √(1 - μ²/‖X‖²). The proximal map of neuron i has the step α λ_i. It serves every W
that knows its multipliers by construction; for a convolution z - α X z is one convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.errors import IllPosedError, InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric


class PreconditionedRun(Run[Tensor]):
    """The state is z; for Wᵀ it is Ψ z."""

    def __init__(self, equation: Equation, prepared: PreparedPreconditioned) -> None:
        self.equation = equation
        self.prepared = prepared

    def start(self, z: Tensor | None) -> Tensor:
        if z is None:
            return torch.zeros_like(self.equation.bias)
        return z / self.prepared.lam if self.prepared.transposed else z

    def step(self, state: Tensor) -> Tensor:
        own = self.prepared
        if own.transposed:
            # The state is q = Ψ z, so Wᵀ z + bias - z = Wᵀ Λ q - Λ q + bias = bias - Xᵀ q.
            point = state * own.lam
            slack = self.equation.W.plus(point, self.equation.bias) - point
        else:
            slack = (self.equation.W.plus(state, self.equation.bias) - state) * own.lam
        return self.equation.activation.prox(state + own.alpha * slack, own.alpha * own.lam)

    def read(self, state: Tensor) -> Tensor:
        return state * self.prepared.lam if self.prepared.transposed else state

    def narrow(self, rows: Tensor) -> PreconditionedRun:
        return PreconditionedRun(self.equation.narrow(rows), self.prepared)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedPreconditioned(Prepared):
    """The step α and Λ (n,)."""

    lam: Tensor
    alpha: float
    rate: float
    transposed: bool = False

    def run(self, equation: Equation, tolerance: float) -> PreconditionedRun:
        return PreconditionedRun(equation, self)

    def transpose(self) -> PreparedPreconditioned:
        return replace(self, transposed=not self.transposed)


@dataclass(frozen=True)
class PreconditionedForwardBackward(Solver):
    """For W whose multipliers are known by construction. ``alpha``: the step; None takes μ/‖X‖²."""

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(f"the step alpha must be positive, got {self.alpha}")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedPreconditioned:
        own = metric.own if metric is not None and metric.own is not None else W.spectrum()
        if own is None:
            raise IllPosedError("this W does not know multipliers by construction; take ForwardBackward()")
        alpha = self.alpha or own.mu / own.norm**2
        square = 1 - 2 * alpha * own.mu + (alpha * own.norm) ** 2
        return PreparedPreconditioned(own.lam.detach(), alpha, math.sqrt(square) if 0 <= square < 1 else 0.999)
