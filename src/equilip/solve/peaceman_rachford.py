"""Peaceman-Rachford splitting: the fastest method for dense W.

With R = 2 (I + α(I - W))⁻¹ - I the iteration is t ← R v + c, v = 2 G_α(t) - t, z = G_α(t) and
c = α (I + R) bias (mathematics 1.7): for relu v = |t|, so a step is one absolute value and one product.
Every α > 0 is admissible; α = 1/√(μL) was measured to be within an iteration or two of the best.
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


class PeacemanRachfordRun(Run[Tensor]):
    """The state is t, (batch, n)."""

    def __init__(self, equation: Equation, RT: Tensor, alpha: float, c: Tensor | None = None) -> None:
        self.equation = equation
        self.RT = RT
        self.alpha = alpha
        self.reflection = equation.activation.reflection(alpha)
        bias = equation.bias
        self.c = torch.addmm(bias, bias, RT, beta=alpha, alpha=alpha) if c is None else c

    def start(self, z: Tensor | None) -> Tensor:
        if z is None:
            return self.c
        # At the equilibrium the proximal map takes z + α (W z + bias - z) back to z.
        return z + self.alpha * (self.equation.W.plus(z, self.equation.bias) - z)

    def step(self, state: Tensor) -> Tensor:
        return torch.addmm(self.c, self.reflection(state), self.RT)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        # The hot loop of the library: nothing is looked up twice in it, and one buffer serves every step.
        c, RT, reflection, mm = self.c, self.RT, self.reflection, torch.mm
        if torch.is_grad_enabled():
            return super().advance(state, steps)
        if steps:
            state = mm(reflection(state), RT).add_(c)
            for _ in range(steps - 1):
                mm(reflection(state), RT, out=state).add_(c)
        return state

    def read(self, state: Tensor) -> Tensor:
        return self.equation.activation.prox(state, self.alpha)

    def narrow(self, rows: Tensor) -> PeacemanRachfordRun:
        return type(self)(self.equation.narrow(rows), self.RT, self.alpha, self.c[rows])

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedPeacemanRachford(Prepared):
    """R, Rᵀ (both laid out by rows, as products want them) and α for one W."""

    R: Tensor
    RT: Tensor
    alpha: float
    rate: float

    def run(self, equation: Equation, tolerance: float) -> PeacemanRachfordRun:
        return PeacemanRachfordRun(equation, self.RT, self.alpha)

    def transpose(self) -> PreparedPeacemanRachford:
        return replace(self, R=self.RT, RT=self.R)

    def to(self, dtype: torch.dtype) -> PreparedPeacemanRachford:
        return replace(self, R=self.R.to(dtype), RT=self.RT.to(dtype))


@dataclass(frozen=True)
class PeacemanRachford(Solver):
    """t ← R v + c. ``alpha``: the step; None takes 1/√(μL) from the metric, or 1 where there is none."""

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(f"the step alpha must be positive, got {self.alpha}")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedPeacemanRachford:
        alpha, rate = self.alpha, 0.9
        if metric is not None and metric.mu > 0:
            alpha = alpha or 1 / math.sqrt(metric.mu * metric.L)
            low, high = alpha * metric.mu, alpha * metric.L
            rate = max(abs(1 - low) / (1 + low), abs(1 - high) / (1 + high))
        alpha = alpha or 1.0
        R = resolvent(W, alpha)
        return PreparedPeacemanRachford(R, R.mT.contiguous(), alpha, rate)


def resolvent(W: Operator, alpha: float) -> Tensor:
    """R = 2 (I + α(I - W))⁻¹ - I, (n, n), differentiable in W where gradients are recorded."""
    # R = (2/α) ((1 + 1/α) I - W)⁻¹ - I: the same with the fewest operations, which is what small n pays for.
    shifted = -W.dense()
    shifted.diagonal().add_(1 + 1 / alpha)
    inverse, singular = torch.linalg.inv_ex(shifted)
    if int(singular):
        raise IllPosedError(
            "I + alpha (I - W) is singular for this W, so that Peaceman-Rachford cannot be used; "
            "take another alpha, or ForwardBackward(alpha=...)"
        )
    R = inverse * (2 / alpha)
    R.diagonal().sub_(1)
    return R
