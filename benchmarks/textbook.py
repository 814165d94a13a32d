"""The textbook iteration: Peaceman-Rachford as papers on monotone equilibrium networks print it and run it.

To find z = relu(W z + bias), split it into the linear map A = I - W and the proximal map of relu, which is relu
itself, and reflect through both in turn. With V = (I + α(I - W))⁻¹ one iteration on (z, t) is

    v = 2 z - t,    w = V (v + α bias),    t ← 2 w - v,    z ← relu(t).

The adjoint equation y = J (Wᵀ y + g), J = diag(j), j = [z > 0], is solved by the same iteration with Vᵀ and, in the
place of relu, the resolvent of d = (1 - j)/j, which is 0 where a neuron is on and infinite where it is off:

    v = 2 y - t,    w = Vᵀ v,    t ← 2 w - v,    y ← (t + α (1 + d) j g) / (1 + α d).

This is the baseline that equilip is measured against, so it keeps what the published code does and equilip does
not, and every such habit is marked "as published": α = 1 whatever the weights are; one stopping rule for the whole
batch, on the length of the last step and not on the residual; two norms read after every iteration; entries with
d = ∞ repaired by a mask; W built from the parameters three times in a training step, once with a graph that nobody
uses. It was written anew from the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equilip.nn import LBEN

#: As published, in training: ‖z⁺ - z‖ <= 1e-2 ‖z⁺‖ over the whole batch.
TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class Answer:
    """A point (batch, n), and after how many iterations it was accepted."""

    point: Tensor
    iterations: int


def inverse(W: Tensor, alpha: float) -> Tensor:
    """V = (I + α(I - W))⁻¹, (n, n)."""
    eye = torch.eye(len(W), dtype=W.dtype)
    return torch.linalg.inv((1 + alpha) * eye - alpha * W)


def equilibrium(
    V: Tensor, bias: Tensor, alpha: float, *, tolerance: float = TOLERANCE, max_iterations: int = 2000
) -> Answer:
    """z = relu(W z + bias) for bias (batch, n). A negative tolerance runs exactly ``max_iterations``."""
    z = t = torch.zeros_like(bias)
    taken, change = 0, 1.0
    while change > tolerance and taken < max_iterations:
        v = 2 * z - t
        w = (v + alpha * bias) @ V.mT
        t = 2 * w - v
        before, z = z, t.relu()
        change = _change(before, z)
        taken += 1
    return Answer(z, taken)


def adjoint(
    V: Tensor, z: Tensor, g: Tensor, alpha: float, *, tolerance: float = TOLERANCE, max_iterations: int = 2000
) -> Answer:
    """y = J (Wᵀ y + g) at the equilibrium z, for a cotangent g (batch, n)."""
    j = (z > 0).to(z.dtype)
    d = (1 - j) / j
    off = j == 0
    jg = j * g
    y = t = torch.zeros_like(z)
    taken, change = 0, 1.0
    while change > tolerance and taken < max_iterations:
        v = 2 * y - t
        w = v @ V
        t = 2 * w - v
        before, y = y, (t + alpha * (1 + d) * jg) / (1 + alpha * d)
        # As published: ∞/∞ and ∞·0 are NaN, and are replaced.
        y[off] = jg[off]
        change = _change(before, y)
        taken += 1
    return Answer(y, taken)


def _change(before: Tensor, after: Tensor) -> float:
    """The length of a step relative to the point, over the whole batch: a bad sample hides among good ones."""
    return (after - before).norm().item() / (1e-6 + after.norm().item())


def halve(count: Callable[[float], int], *, smallest: float = 1e-4) -> float:
    """α as published tuning finds it: from 1, halved for as long as the number of iterations does not grow."""
    alpha, best = 1.0, count(1.0)
    while alpha > smallest:
        iterations = count(alpha / 2)
        if iterations > best:
            break
        alpha, best = alpha / 2, iterations
    return alpha


class TextbookLBEN(torch.nn.Module):
    """The network of ``equilip.nn.LBEN`` (from a copy of its parameters), trained as its authors do."""

    V: Tensor
    S: Tensor
    psi: Tensor
    U: Tensor
    b: Tensor
    C: Tensor
    c: Tensor

    def __init__(self, twin: LBEN, *, alpha: float = 1.0, tolerance: float = TOLERANCE) -> None:
        super().__init__()
        if twin.gamma is None:
            raise ValueError("the textbook network is the one with a bound: its twin needs a gamma")
        for name in ("V", "S", "psi", "U", "b", "C", "c"):
            self.register_parameter(name, torch.nn.Parameter(twin.get_parameter(name).detach().clone()))
        self.gamma, self.epsilon = twin.gamma, twin.epsilon
        self.alpha, self.tolerance = alpha, tolerance
        #: Iterations of the last forward and backward solve.
        self.forward_iterations = self.backward_iterations = 0

    def recurrent(self) -> Tensor:
        """W = I - Ψ (VᵀV + ε I + Sᵀ - S + CᵀC/(2γ) + Λ U Uᵀ Λ/(2γ)), (n, n)."""
        eye = torch.eye(len(self.b), dtype=self.b.dtype)
        psi = self.psi.exp()
        scaled = self.U / psi[:, None]
        T = (
            self.V.mT @ self.V
            + self.epsilon * eye
            + self.S.mT
            - self.S
            + self.C.mT @ self.C / (2 * self.gamma)
            + scaled @ scaled.mT / (2 * self.gamma)
        )
        return eye - psi[:, None] * T

    def bias(self, x: Tensor) -> Tensor:
        return x @ self.U.mT + self.b

    def forward(self, x: Tensor) -> Tensor:
        # As published: W and the bias are made here for the iteration, and once more below for the gradient.
        V = inverse(self.recurrent(), self.alpha)
        with torch.no_grad():
            answer = equilibrium(V, self.bias(x), self.alpha, tolerance=self.tolerance)
        self.forward_iterations = answer.iterations
        # One recorded step at the equilibrium; the gradient that reaches it is exchanged for g + Wᵀ y.
        step = (answer.point @ self.recurrent().mT + self.bias(x)).relu()
        z: Tensor = _ExchangeGradient.apply(step, self, V)  # type: ignore[no-untyped-call]
        return z @ self.C.mT + self.c

    def tune(self, x: Tensor) -> None:
        """Choose α by halving, on one batch."""
        with torch.no_grad():
            W, bias = self.recurrent(), self.bias(x)
        self.alpha = halve(lambda a: equilibrium(inverse(W, a), bias, a, tolerance=self.tolerance).iterations)


class _ExchangeGradient(torch.autograd.Function):
    """z unchanged; its cotangent g becomes g + Wᵀ y with y = J (Wᵀ y + g)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, network: TextbookLBEN, V: Tensor) -> Tensor:
        ctx.network = network
        ctx.save_for_backward(z, V)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        z, V = ctx.saved_tensors
        (g,) = cotangents
        network: TextbookLBEN = ctx.network
        answer = adjoint(V, z, g, network.alpha, tolerance=network.tolerance)
        network.backward_iterations = answer.iterations
        # As published: W for the third time.
        return g + answer.point @ network.recurrent(), None, None
