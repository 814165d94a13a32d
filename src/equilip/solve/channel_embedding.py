"""The equation of a box for convolutional contractions (linf.md 4, 6), and the gradient through it.

As :mod:`equilip.solve.embedded`, with convolutions for matrices: the centres are read through W, the half-widths
through its absolute values with the diagonal kept. Nothing here is a proof: :mod:`equilip.certify` makes one of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.errors import ConvergenceError
from equilip.operators import Contraction, Conv2d
from equilip.solve.embedded import LIMIT, Boxed, relative

#: Centres and half-widths of boxes, and points beside them.
State = tuple[Tensor, Tensor, Tensor]


class ChannelEmbedding:
    """The box equation of one W, ready for many boxes; every centre tap has to be below 1, as a contraction's is."""

    def __init__(self, W: Contraction, sigma: Activation) -> None:
        self.W, self.sigma = W, sigma
        self.centre = W.spread(W.centre)
        self.alpha = 1 / (1 - self.centre.detach())
        self.others = W.without_centre()
        self.size = Conv2d(self.others.kernel.abs(), W.shape, W.padding)

    def solve(self, centre: Tensor, radius: Tensor, points: Tensor, *, tolerance: float, limit: int) -> Boxed:
        """For biases centre ± radius (batch, n), and of points (others, n) beside them. No gradient."""
        batch = len(centre)
        bias, push = torch.cat([centre, points]) * self.alpha, radius * self.alpha
        c, r = torch.zeros_like(bias), torch.zeros_like(push)
        change, iterations = torch.inf, 0
        with torch.no_grad():
            while iterations < limit and change > tolerance:
                for _ in range(2):
                    before = c, r
                    s_c, s_r = self.others.apply(c) * self.alpha + bias, self.size.apply(r) * self.alpha + push
                    high = self.sigma.prox(s_c[:batch] + s_r, self.alpha)
                    low = self.sigma.prox(s_c[:batch] - s_r, self.alpha)
                    own = self.sigma.prox(s_c[batch:], self.alpha)
                    c, r = torch.cat([0.5 * (high + low), own]), 0.5 * (high - low)
                    iterations += 1
                change = max(relative(c, before[0]), relative(r, before[1]))
        return Boxed(c[:batch], r, c[batch:], change, iterations)

    def image(self, state: State, bias: State) -> State:
        """What the equation makes of a state; the state itself at its solution. Differentiable in both and in W."""
        (c, r, z), (bias_c, bias_r, bias_z) = state, bias
        s_c, s_r = self.W.apply(c) + bias_c, self.size.apply(r) + self.centre * r + bias_r
        high, low = self.sigma.value(s_c + s_r), self.sigma.value(s_c - s_r)
        return 0.5 * (high + low), 0.5 * (high - low), self.sigma.value(self.W.apply(z) + bias_z)


class _Implicit(torch.autograd.Function):
    """Hands a state on; its gradient g becomes the solution v of v = g + Jᵀ v, J the derivative of the equation."""

    @staticmethod
    def forward(
        ctx: Any, embedding: ChannelEmbedding, bias: State, tolerance: float, c: Tensor, r: Tensor, z: Tensor
    ) -> State:
        ctx.embedding, ctx.bias, ctx.tolerance = embedding, bias, tolerance
        ctx.save_for_backward(c, r, z)
        return c.clone(), r.clone(), z.clone()

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        embedding: ChannelEmbedding = ctx.embedding
        with torch.enable_grad():
            state = tuple(t.detach().requires_grad_() for t in ctx.saved_tensors)
            image = embedding.image(state, ctx.bias)
        # A step that differs from neuron to neuron leaves the averaged map a contraction of the transposed equation.
        alpha = 1 / (1 + (-embedding.centre.detach()).clamp(min=0))
        v = tuple(g)
        change, iterations = torch.inf, 0
        while iterations < LIMIT and change > ctx.tolerance:
            before = v
            pulled = torch.autograd.grad(image, state, v, retain_graph=True)
            v = tuple(torch.lerp(old, own + back, alpha) for old, own, back in zip(v, g, pulled, strict=True))
            iterations += 1
            change = max(relative(new, old) for new, old in zip(v, before, strict=True) if new.numel())
        return None, None, None, *v


def image_boxes(
    W: Contraction, sigma: Activation, centre: Tensor, radius: Tensor, points: Tensor, *, tolerance: float = 1e-2
) -> State:
    """As :func:`equilip.solve.embedded.boxes`, for images: centres, half-widths, equilibria of other biases.

    centre, radius (batch, n), points (others, n). Differentiable once. ``tolerance`` is on the relative change of a
    step: enough to train by, and no proof. Raises ConvergenceError.
    """
    embedding = ChannelEmbedding(W, sigma)
    found = embedding.solve(centre.detach(), radius.detach(), points.detach(), tolerance=tolerance, limit=LIMIT)
    if not found.change <= tolerance:
        raise ConvergenceError(
            f"a box did not settle within {LIMIT} steps (relative change {found.change:.2g}); lower the learning rate, "
            "or m",
            None,
        )
    # Once more through the equation, for the gradient with respect to W and the biases.
    image = embedding.image((found.centre, found.radius, found.z), (centre, radius, points))
    fixed = ChannelEmbedding(Contraction(W.kernel.detach(), W.shape, W.padding), sigma)
    bias = (centre.detach(), radius.detach(), points.detach())
    c, r, z = _Implicit.apply(fixed, bias, tolerance, *image)  # type: ignore[no-untyped-call]
    return c, r, z
