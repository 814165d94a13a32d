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

#: An old inverse that misses the new one by less, in Frobenius norm, is renewed: what remains is below 1e-5 of it.
NEAR = 0.02


class PeacemanRachfordRun(Run[Tensor]):
    """The state is t, (batch, n)."""

    def __init__(self, equation: Equation, RT: Tensor, alpha: float, c: Tensor | None = None) -> None:
        self.equation = equation
        self.RT = RT
        self.alpha = alpha
        bias = equation.bias
        self.c = torch.addmm(bias, bias, RT, beta=alpha, alpha=alpha) if c is None else c

    def start(self, z: Tensor | None) -> Tensor:
        if z is None:
            return self.c
        # At the equilibrium the proximal map takes z + α (W z + bias - z) back to z.
        return z + self.alpha * (self.equation.W.plus(z, self.equation.bias) - z)

    def step(self, state: Tensor) -> Tensor:
        reflection = self.equation.activation.reflection(self.alpha)
        return torch.addmm(self.c, reflection(state), self.RT)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        if torch.is_grad_enabled() or not steps:
            return super().advance(state, steps)
        # The hot loop of the library: nothing is looked up twice in it, and two buffers serve every step.
        c, RT, mm = self.c, self.RT, torch.mm
        reflect = self.equation.activation.reflection_(self.alpha)
        spare = state.clone()
        state = mm(reflect(spare), RT).add_(c)
        for _ in range(steps - 1):
            state, spare = mm(reflect(state), RT, out=spare).add_(c), state
        return state

    def read(self, state: Tensor) -> Tensor:
        return self.equation.activation.prox(state, self.alpha)

    def narrow(self, rows: Tensor) -> PeacemanRachfordRun:
        return type(self)(self.equation.narrow(rows), self.RT, self.alpha, self.c[rows])

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


@dataclass(frozen=True, eq=False)
class PreparedPeacemanRachford(Prepared):
    """R, Rᵀ (both laid out by rows, as products want them) and α for one W; inverse: ((1 + 1/α) I - W)⁻¹."""

    R: Tensor
    RT: Tensor
    alpha: float
    rate: float
    inverse: Tensor

    def run(self, equation: Equation, tolerance: float) -> PeacemanRachfordRun:
        return PeacemanRachfordRun(equation, self.RT, self.alpha)

    def transpose(self) -> PreparedPeacemanRachford:
        return PreparedPeacemanRachford(self.RT, self.R, self.alpha, self.rate, self.inverse.mT)

    def to(self, dtype: torch.dtype) -> PreparedPeacemanRachford:
        return replace(self, R=self.R.to(dtype), RT=self.RT.to(dtype), inverse=self.inverse.to(dtype))

    def renewed(self, W: Operator) -> PreparedPeacemanRachford | None:
        """By one step of the third-order Newton-Schulz iteration: three products, where a factorisation costs six.

        With E = I - A X for the old inverse X, X (I + E + E²) misses the new one by E³ of itself.
        """
        X = self.inverse
        E = torch.addmm(X, W.dense(), X, beta=-(1 + 1 / self.alpha))
        E.diagonal().add_(1)
        missed = torch.linalg.vector_norm(E)
        if E.dtype != torch.float32 or not float(missed) < NEAR:
            return None
        return prepare(torch.addmm(X, X, torch.addmm(E, E, E)), self.alpha, self.rate)


def prepare(inverse: Tensor, alpha: float, rate: float) -> PreparedPeacemanRachford:
    """From ((1 + 1/α) I - W)⁻¹, (n, n), differentiable in it where gradients are recorded."""
    # R = (2/α) ((1 + 1/α) I - W)⁻¹ - I: the definition with the fewest operations, which is what small n pays for.
    R = inverse * (2 / alpha)
    R.diagonal().sub_(1)
    return PreparedPeacemanRachford(R, R.mT.contiguous(), alpha, rate, inverse)


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
        return prepare(_inverse(W, alpha), alpha, rate)


def _inverse(W: Operator, alpha: float) -> Tensor:
    """((1 + 1/α) I - W)⁻¹, (n, n)."""
    shifted = -W.dense()
    shifted.diagonal().add_(1 + 1 / alpha)
    inverse, singular = torch.linalg.inv_ex(shifted)
    if int(singular):
        raise IllPosedError(
            "I + alpha (I - W) is singular for this W, so that Peaceman-Rachford cannot be used; "
            "take another alpha, or ForwardBackward(alpha=...)"
        )
    return inverse
