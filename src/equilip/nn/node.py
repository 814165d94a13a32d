"""A whole network as one autograd node: parameters and input in, output of the equilibrium out.

Training small networks is bound by the number of operations, not by arithmetic: making W, adding the input,
solving, and pulling gradients back through each of them apart costs more between the operations than in them.
Here the first derivative is taken in one piece, with the same rules and the same solver. A second derivative
goes back to the pieces, which are differentiable any number of times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from equilip.activations import Activation, Slopes
from equilip.operators import Dense
from equilip.solve import Equation, Plan
from equilip.solve.implicit import Equilibrium, Task, require_converged


class Rule(ABC):
    """How direct parameters (and U) make W, and how a cotangent of W is pulled back to them."""

    @abstractmethod
    def matrix(self, U: Tensor, *parameters: Tensor) -> tuple[Tensor, Any]:
        """W (n, n), and what ``pullback`` needs to remember."""

    @abstractmethod
    def pullback(
        self, U: Tensor, *parameters: Tensor, W: Tensor, memory: Any, dW: Tensor
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """(P, gradients of the parameters), where P U is the gradient of U through W; P None where W has no U in it."""

    @abstractmethod
    def tracked(self, U: Tensor, *parameters: Tensor) -> Tensor:
        """W again, recorded by autograd for derivatives of every order."""

    @abstractmethod
    def multipliers(self, *parameters: Tensor) -> Tensor:
        """Λ (n,) for which 2Λ - ΛW - WᵀΛ is positive definite."""


class NetworkNode(torch.autograd.Function):
    """(rule, plan, activation, ξ, b, U, C, c, *parameters) -> y; ξ (batch, p), y (batch, q).

    Where ``plan.last`` is not CONVERGED afterwards, y is worth nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rule: Rule,
        plan: Plan,
        sigma: Activation,
        xi: Tensor,
        b: Tensor,
        U: Tensor,
        C: Tensor,
        c: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        with torch.inference_mode():
            matrix, memory = rule.matrix(U, *parameters)
            W = Dense(matrix)
            if plan.due:
                plan.lam = rule.multipliers(*parameters)
            prepared = plan.prepare(W)
            outcome = plan.iterate(prepared, Equation(W, sigma, torch.addmm(b, xi, U.mT)), None)
            slope = sigma.slope(outcome.s)
        ctx.save_for_backward(xi, b, U, C, c, *parameters)
        ctx.pieces = rule, plan, sigma, prepared, W, memory, outcome.z, slope, plan.expected_adjoint
        return torch.addmm(c, outcome.z, C.mT)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (dy,) = cotangents
        xi, b, U, C, c, *parameters = ctx.saved_tensors
        rule, plan, sigma, prepared, W, memory, z, slope, expected = ctx.pieces
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            return None, None, None, *_in_pieces(rule, plan, sigma, (xi, b, U, C, c, *parameters), needed, dy)
        equation = Equation(W.transpose(), Slopes(slope, sigma.binary), dy @ C)
        with torch.inference_mode():
            outcome = plan.iterate_linear(
                prepared.transpose(), equation, plan.settings.gradient.adjoint_tolerance, expected
            )
        require_converged(outcome.report, plan.settings)
        v = outcome.z
        pull, gradients = rule.pullback(U, *parameters, W=W.dense(), memory=memory, dW=v.mT @ z)
        dU = v.mT @ xi
        if pull is not None:
            dU.addmm_(pull, U)
        dxi = v @ U if needed[0] else None
        return None, None, None, dxi, v.sum(0), dU, dy.mT @ z, dy.sum(0), *gradients


def _in_pieces(
    rule: Rule, plan: Plan, sigma: Activation, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The same gradients, differentiable again: the network is solved once more through the separate functions."""
    with torch.enable_grad():
        # Aliases, because a parameter of the rule may be C or U itself, and each place has a gradient of its own.
        inputs = tuple(t.view_as(t) for t in inputs)
        xi, b, U, C, c, *parameters = inputs
        W = Dense(rule.tracked(U, *parameters))
        own = Plan(plan.settings, rule.multipliers(*parameters))
        task = Task(W, sigma, own, plan.settings.gradient.adjoint_tolerance)
        z, _ = Equilibrium.apply(task, torch.addmm(b, xi, U.mT), None, *W.tensors)  # type: ignore[no-untyped-call]
        y = torch.addmm(c, z, C.mT)
        wanted = tuple(t for t, need in zip(inputs, needed, strict=True) if need)
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
