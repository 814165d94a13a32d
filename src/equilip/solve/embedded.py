"""The equation of a box: between which values a neuron stays while the input runs over a box (linf.md 4).

For centres and half-widths, the two ends being centre ± half-width, the box's equation is

    s_c = W c + bias_c,   s_r = |W|' r + bias_r,   c ± r = σ(s_c ± s_r),

with |W|' the diagonal of W and the absolute values off it: two products with matrices of n neurons, where the equation
of both ends has a matrix of twice the size. It is solved by Jacobi's iteration, and its adjoint by the transpose.
Nothing here is a proof: :mod:`equilip.certify.boxes` makes one of what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equilip.activations import Activation, slope_bounds
from equilip.errors import ConvergenceError


@dataclass(frozen=True, eq=False)
class Boxed:
    """Centres and half-widths (batch, n) of the neurons' boxes, and the equilibria ``z`` of the points asked for.

    change: the largest relative change of the last step, (); iterations: how many.
    """

    centre: Tensor
    radius: Tensor
    z: Tensor
    change: float
    iterations: int


class Embedding:
    """The box equation of one W (n, n), ready for many boxes."""

    def __init__(self, W: Tensor, sigma: Activation) -> None:
        diagonal = W.diagonal()
        self.sigma = sigma
        #: Whether every neuron's own equation can be solved exactly; else an averaged step, which takes longer.
        self.exact = bool((diagonal < 1).all())
        if self.exact:
            self.alpha = 1 / (1 - diagonal)
            N = W * self.alpha[:, None]
            self.N = N - torch.diag_embed(N.diagonal())
            self.size = self.N.abs()
        else:
            top = slope_bounds(sigma, len(diagonal))[1].to(W)
            self.alpha = 1 / (1 + top * (-diagonal).clamp(min=0))
            self.N = W
            self.size = W.abs() - torch.diag_embed(diagonal.abs() - diagonal)

    def solve(self, centre: Tensor, radius: Tensor, points: Tensor, *, tolerance: float, limit: int) -> Boxed:
        """For biases centre ± radius (batch, n), and of points (others, n) beside them."""
        batch = centre.shape[0]
        bias = torch.cat([centre, points])
        if self.exact:
            bias, radius = bias * self.alpha, radius * self.alpha
        c, r = torch.zeros_like(bias), torch.zeros_like(radius)
        change = torch.inf
        iterations = 0
        while iterations < limit and change > tolerance:
            for _ in range(2):
                before = c, r
                s_c, s_r = torch.addmm(bias, c, self.N.mT), torch.addmm(radius, r, self.size.mT)
                high, low = self._step(s_c[:batch] + s_r, c[:batch] + r), self._step(s_c[:batch] - s_r, c[:batch] - r)
                c, r = torch.cat([0.5 * (high + low), self._step(s_c[batch:], c[batch:])]), 0.5 * (high - low)
                iterations += 1
            change = max(relative(c, before[0]), relative(r, before[1]))
        return Boxed(c[:batch], r, c[batch:], change, iterations)

    def _step(self, s: Tensor, z: Tensor) -> Tensor:
        if self.exact:
            return self.sigma.prox(s, self.alpha)
        return torch.lerp(z, self.sigma.value(s), self.alpha.expand_as(z))

    def adjoint(
        self, slopes: tuple[Tensor, Tensor, Tensor], cotangents: tuple[Tensor, Tensor], *, tolerance: float, limit: int
    ) -> tuple[Tensor, Tensor]:
        """The cotangents (v_c, v_r) of s_c (points appended) and s_r, for those of c and r.

        ``slopes``: σ' at the upper and lower ends and at the points. The transposed iteration of
        :mod:`equilip.solve.jacobi`, whose v is α κ times its state.
        """
        high, low, point = (j / (j + self.alpha * (1 - j)) for j in slopes)
        mean, half = 0.5 * (high + low), 0.5 * (high - low)
        g_c, g_r = cotangents
        batch = g_r.shape[0]
        h_c, h_r = g_c, g_r
        change = torch.inf
        iterations = 0
        while iterations < limit and change > tolerance:
            for _ in range(2):
                before = h_c, h_r
                k_c = torch.cat([mean * h_c[:batch] + half * h_r, point * h_c[batch:]])
                k_r = half * h_c[:batch] + mean * h_r
                h_c, h_r = torch.addmm(g_c, k_c, self.N), torch.addmm(g_r, k_r, self.size)
                iterations += 1
            change = max(relative(h_c, before[0]), relative(h_r, before[1]))
        k_c = torch.cat([mean * h_c[:batch] + half * h_r, point * h_c[batch:]])
        return k_c * self.alpha, (half * h_c[:batch] + mean * h_r) * self.alpha


def relative(new: Tensor, old: Tensor) -> float:
    """‖new - old‖ / ‖new‖."""
    size = torch.linalg.vector_norm(new)
    return float(torch.linalg.vector_norm(new - old) / size.clamp(min=torch.finfo(new.dtype).tiny))


class BoxEquilibrium(torch.autograd.Function):
    """(σ, tolerance, W, bias_c, bias_r, points) -> (c, r, z), with the gradient of the implicit function theorem."""

    @staticmethod
    def forward(
        ctx: Any, sigma: Activation, tolerance: float, W: Tensor, centre: Tensor, radius: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        embedding = Embedding(W, sigma)
        if not embedding.exact:
            raise ConvergenceError("boxes can be trained through only where every w_ii is below 1 (nn.NEMON)", None)
        found = embedding.solve(centre, radius, points, tolerance=tolerance, limit=LIMIT)
        if not found.change <= tolerance:
            raise ConvergenceError(
                f"a box did not settle within {LIMIT} steps (relative change {found.change:.2g}); lower the learning "
                "rate, or m",
                None,
            )
        c, r, z = found.centre, found.radius, found.z
        s_c, s_r = (
            torch.addmm(centre, c, W.mT),
            radius + r @ (W.abs() + torch.diag(W.diagonal() - W.diagonal().abs())).mT,
        )
        slopes = sigma.slope(s_c + s_r), sigma.slope(s_c - s_r), sigma.slope(torch.addmm(points, z, W.mT))
        ctx.embedding, ctx.tolerance = embedding, tolerance
        ctx.save_for_backward(W, c, r, z, *slopes)
        return c, r, z

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        W, c, r, z, high, low, point = ctx.saved_tensors
        g_c, g_r, g_z = cotangents
        v_c, v_r = ctx.embedding.adjoint(
            (high, low, point), (torch.cat([g_c, g_z]), g_r), tolerance=ctx.tolerance, limit=LIMIT
        )
        both = v_r.mT @ r
        dW = torch.addmm(both * torch.sign(W), v_c.mT, torch.cat([c, z]))
        # The diagonal enters the half-widths with its own sign.
        dW.diagonal().add_(both.diagonal() * (1 - torch.sign(W.diagonal())))
        return None, None, dW, v_c[: len(r)], v_r, v_c[len(r) :]


#: Steps after which a box in training is given up.
LIMIT = 400


def boxes(
    W: Tensor, sigma: Activation, centre: Tensor, radius: Tensor, points: Tensor, *, tolerance: float = 1e-2
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres and half-widths of the neurons for biases centre ± radius, and the equilibria of other biases ``points``.

    W (n, n) with a diagonal below 1; centre, radius (batch, n), points (others, n). Differentiable once. ``tolerance``
    is on the relative change of a step: enough to train by, and no proof. Raises ConvergenceError.
    """
    found = BoxEquilibrium.apply(sigma, tolerance, W, centre, radius, points)  # type: ignore[no-untyped-call]
    return found[0], found[1], found[2]
