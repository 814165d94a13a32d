"""Jacobi's iteration: every neuron solves its own equation exactly while the others stand still.

z_i = σ(w_ii z_i + t) has the solution prox_α(α t) with α = 1/(1 - w_ii) (mathematics 1.7), so that one step is

    z ← prox_α(N z + α bias),    N = diag(α) (W - diag W),

one product and one proximal map, with nothing to factorise. |N| bounds how errors grow, so for every weight x > 0 the
map contracts in max |z_i| / x_i by the factor max_i (|N| x)_i / x_i: below one for some x exactly where W contracts in
a weighted ℓ∞ norm (linf.md 2). No averaged iteration contracts faster in any such norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from equilip.errors import IllPosedError
from equilip.operators import Operator
from equilip.solve.averaged import comparison_solution
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric

#: Products with |N| that look for the weight of the best factor before a linear system is solved for one.
TRIES = 12


class JacobiRun(Run[Tensor]):
    """The state is z."""

    def __init__(self, equation: Equation, N: Tensor, alpha: Tensor) -> None:
        self.equation, self.N, self.alpha = equation, N, alpha
        self.bias = equation.bias * alpha

    def start(self, z: Tensor | None) -> Tensor:
        return self.equation.activation.prox(self.bias, self.alpha) if z is None else z

    def step(self, state: Tensor) -> Tensor:
        return self.equation.activation.prox(torch.addmm(self.bias, state, self.N.mT), self.alpha)

    def read(self, state: Tensor) -> Tensor:
        return state

    def narrow(self, rows: Tensor) -> Self:
        return type(self)(self.equation.narrow(rows), self.N, self.alpha)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]


class JacobiAdjointRun(JacobiRun):
    """The transposed iteration r ← Nᵀ κ r + g, whose v = α κ r solves the adjoint equation v = j (Wᵀ v + g).

    κ = j / (j + α (1 - j)) is the slope of prox_α. It contracts by the same factor, in Σ x_i |r_i|; iterating v
    itself need not contract in any norm known beforehand (mathematics 3.2). The state is r.
    """

    def start(self, z: Tensor | None) -> Tensor:
        g = self.equation.bias
        return g if z is None else z / self.alpha - z + self.equation.W.plus(z, g)

    def step(self, state: Tensor) -> Tensor:
        return torch.addmm(self.equation.bias, self.equation.activation.prox(state, self.alpha), self.N)

    def read(self, state: Tensor) -> Tensor:
        return self.equation.activation.prox(state, self.alpha) * self.alpha


@dataclass(frozen=True, eq=False)
class PreparedJacobi(Prepared):
    """N (n, n), α (n,), and on which side of the proximal map to iterate."""

    N: Tensor
    alpha: Tensor
    rate: float
    adjoint: bool = False

    def run(self, equation: Equation, tolerance: float) -> JacobiRun:
        return (JacobiAdjointRun if self.adjoint else JacobiRun)(equation, self.N, self.alpha)

    def transpose(self) -> PreparedJacobi:
        return replace(self, adjoint=not self.adjoint)


@dataclass(frozen=True)
class Jacobi(Solver):
    """``prepare`` raises IllPosedError where W contracts in no weighted ℓ∞ norm."""

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedJacobi:
        found = prepare_jacobi(W)
        if found is None:
            raise IllPosedError(
                "Jacobi's iteration needs a W that contracts in a weighted l-infinity norm (nn.NEMON makes such), and "
                "this one does not; use PeacemanRachford()"
            )
        return found


def prepare_jacobi(W: Operator) -> PreparedJacobi | None:
    """The iteration for W, differentiable in it; None where W contracts in no weighted ℓ∞ norm."""
    matrix = W.dense()
    if not bool((matrix.detach().diagonal() < 1).all()):
        return None
    alpha = 1 / (1 - matrix.diagonal())
    N = matrix * alpha[:, None]
    N = N - torch.diag_embed(N.diagonal())
    rate = contraction(W, N)
    return None if rate is None else PreparedJacobi(N, alpha, rate)


def contraction(W: Operator, N: Tensor) -> float | None:
    """A factor below one by which errors shrink in some weighted ℓ∞ norm, as computed; None where there is none."""
    with torch.no_grad():
        if not N.shape[0]:
            return 0.0
        size = N.abs()
        x = size.new_ones(size.shape[0])
        best = torch.inf
        for _ in range(TRIES):
            image = size @ x
            best = min(best, float((image / x).amax()))
            # Towards the Perron vector; the mean keeps neurons that nobody reads in.
            x = image / image.amax().clamp(min=1e-30) + 1e-3
        if not best < 1:
            weight = comparison_solution(W)
            if weight is None:
                return None
            weight = weight.to(size.dtype)
            best = float(((size @ weight) / weight).amax())
        return min(best, 0.9999) if best < 1 or best < 1 + 1e-5 else None
