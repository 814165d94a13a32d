"""The averaged iteration z ← (1 - α) z + α σ(W z + bias): a contraction where W is one in a weighted ℓ∞ norm.

Let M be the comparison matrix of W: its diagonal, and the absolute values off it. If (I - M) x = 1 has a
positive solution x, the map contracts in max |z_i| / x_i for 0 < α <= 1 / (1 - min_i min(w_ii, 0)), by the
factor 1 - α min_i 1/x_i (mathematics 3.1, 3.2). Nothing here needs an ℓ2 metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from equilip.errors import IllPosedError, InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric


class AveragedRun(Run[Tensor]):
    """The state is z."""

    def __init__(self, equation: Equation, alpha: float) -> None:
        self.equation = equation
        self.alpha = alpha

    def start(self, z: Tensor | None) -> Tensor:
        return self.equation.bias.new_zeros(self.equation.bias.shape) if z is None else z

    def step(self, state: Tensor) -> Tensor:
        W, sigma, bias = self.equation.W, self.equation.activation, self.equation.bias
        return torch.lerp(state, sigma.value(W.plus(state, bias)), self.alpha)

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> Self:
        return type(self)(self.equation.narrow(rows), self.alpha)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


class AveragedAdjointRun(AveragedRun):
    """The state is the preactivation s = W z + bias.

    For the adjoint equation (W is then a transpose) the iteration on s contracts in the dual norm, and the one
    on z need not (mathematics 3.2).
    """

    def start(self, z: Tensor | None) -> Tensor:
        bias = self.equation.bias
        return bias if z is None else self.equation.W.plus(z, bias)

    def step(self, state: Tensor) -> Tensor:
        return torch.lerp(state, self.equation.W.plus(self.read(state), self.equation.bias), self.alpha)

    def read(self, state: Tensor) -> Tensor:
        return self.equation.activation.value(state)


@dataclass(frozen=True)
class PreparedAveraged(Prepared):
    """The step size, and on which side of σ to iterate."""

    alpha: float
    rate: float
    adjoint: bool = False

    def run(self, equation: Equation, tolerance: float) -> AveragedRun:
        return (AveragedAdjointRun if self.adjoint else AveragedRun)(equation, self.alpha)

    def transpose(self) -> PreparedAveraged:
        return replace(self, adjoint=not self.adjoint)


def comparison_solution(W: Operator) -> Tensor | None:
    """The positive x with (I - M) x = 1, (n,) float64; None where there is none, so W is not contracting in ℓ∞."""
    with torch.no_grad():
        matrix = W.dense().double()
        M = matrix.abs()
        M.diagonal().copy_(matrix.diagonal())
        eye = torch.eye(M.shape[0], dtype=M.dtype, device=M.device)
        x, info = torch.linalg.solve_ex(eye - M, M.new_ones(M.shape[0]))
        return x if int(info) == 0 and bool((x > 0).all()) else None


@dataclass(frozen=True)
class Averaged(Solver):
    """``alpha``: None takes 1 / (1 - min_i min(w_ii, 0)), the best proven step.

    ``prepare`` raises IllPosedError when W is not contracting in any weighted ℓ∞ norm and no alpha was given.
    """

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise InputError(f"the step alpha must lie in (0, 1], got {self.alpha}")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedAveraged:
        x = comparison_solution(W)
        if x is None:
            if self.alpha is None:
                raise IllPosedError(
                    "the averaged iteration needs a W that contracts in a weighted l-infinity norm, and this one "
                    "does not; use PeacemanRachford(), or give alpha and watch Solution.converged"
                )
            return PreparedAveraged(self.alpha, 0.99)
        smallest = float(W.dense().detach().diagonal().amin().clamp(max=0)) if x.numel() else 0.0
        alpha = self.alpha if self.alpha is not None else 1 / (1 - smallest)
        gap = float(x.reciprocal().amin()) if x.numel() else 1.0
        return PreparedAveraged(alpha, min(max(1 - alpha * gap, 0.0), 0.9999))
