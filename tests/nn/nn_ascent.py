"""Gradient ascent on the slopes of many tiny relu networks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from equilip.form import Form


class Networks(NamedTuple):
    """Relu networks of one size, as matrices: W (k, n, n), U (k, n, p), b (k, n), C (k, q, n); D = 0."""

    W: Tensor
    U: Tensor
    b: Tensor
    C: Tensor

    @classmethod
    def of(cls, forms: list[Form]) -> Networks:
        """The networks of these forms, in float64; relu is the activation of each."""
        assert all(form.activation.kind == "relu" and form.standardisation is None for form in forms)
        dense = [(form.W.dense(), form.U.dense(), form.b, form.C.dense()) for form in forms]
        return cls(*(torch.stack(part).detach().double() for part in zip(*dense, strict=True)))


def climb(networks: Networks, steps: int, *, pairs: int = 1, rate: float = 0.03, seed: int = 0) -> Tensor:
    """(k,): the largest slope ‖y - y'‖ / ‖x - x'‖ that Adam finds between inputs of each network."""
    W, U, b, C = networks
    k, n, p = U.shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(k, pairs, p, generator=generator, dtype=torch.float64)
    d = torch.randn(k, pairs, p, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    d.requires_grad_()
    optimiser = torch.optim.Adam([x, d], lr=rate)
    solve = _Solver(W, 2 * pairs)
    best = torch.zeros(k, dtype=torch.float64)
    for _ in range(steps):
        inputs = torch.cat([x.detach(), x.detach() + d.detach()], dim=1)
        z, adjoint = solve((inputs @ U.mT + b[:, None]).flatten(0, 1))
        y = (z.view(k, 2 * pairs, n) @ C.mT).requires_grad_()
        distance = d.norm(dim=2)
        slope = (y[:, pairs:] - y[:, :pairs]).norm(dim=2) / distance
        best = torch.maximum(best, slope.detach().amax(dim=1))
        optimiser.zero_grad()
        (-slope.sum()).backward()
        assert y.grad is not None
        assert d.grad is not None
        pulled = adjoint((y.grad @ C).flatten(0, 1)).view(k, 2 * pairs, n) @ U
        x.grad = pulled[:, :pairs] + pulled[:, pairs:]
        d.grad = d.grad + pulled[:, pairs:]
        optimiser.step()
    return best


class _Solver:
    """Equilibria by guessing which neurons are active, which makes the equation linear, until the guess is right.

    A guess corrects itself where few neurons change, but may go in circles: Peaceman-Rachford, which does not, makes
    the next one then. The guess of the call before is nearly always right, for inputs move little in between.
    """

    def __init__(self, W: Tensor, count: int) -> None:
        n = W.shape[1]
        self.eye = torch.eye(n, dtype=W.dtype)
        # One row for every input of every network.
        self.W = W.repeat_interleave(count, 0)
        self.resolvent = torch.linalg.inv(2 * self.eye - W).repeat_interleave(count, 0)
        self.active = torch.ones(len(self.W), n, dtype=torch.bool)

    def __call__(self, bias: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """z for these biases, (rows, n), and the map from a cotangent of z to that of the bias."""
        rows = torch.arange(len(bias))
        z = torch.zeros_like(bias)
        LU, pivots = torch.zeros_like(self.W), torch.zeros(bias.shape, dtype=torch.int32)
        for attempt in range(30):
            active = self.active[rows]
            factors = torch.linalg.lu_factor(self.eye - active[..., None] * self.W[rows])
            z[rows] = _apply(torch.linalg.lu_solve, *factors, active * bias[rows])
            LU[rows], pivots[rows] = factors
            s = _apply(torch.bmm, self.W[rows], z[rows]) + bias[rows]
            wrong = (s.clamp(min=0) - z[rows]).abs().amax(dim=1) > 1e-9 * (1 + z[rows].abs().amax(dim=1))
            rows, s = rows[wrong], s[wrong]
            if not len(rows):
                break
            self.active[rows] = (
                s > 0 if attempt % 4 < 3 else self._iterated(rows, z[rows], bias[rows], 2 ** (attempt // 2))
            )
        assert not len(rows), "no equilibrium was found"
        active = self.active.clone()

        def adjoint(cotangent: Tensor) -> Tensor:
            return active * torch.linalg.lu_solve(LU, pivots, cotangent[..., None], adjoint=True)[..., 0]

        return z, adjoint

    def _iterated(self, rows: Tensor, z: Tensor, bias: Tensor, hundreds: int) -> Tensor:
        """Which neurons are active after some hundred steps."""
        resolvent, t = self.resolvent[rows], z
        for _ in range(100 * hundreds):
            v = t.abs()  # 2 relu(t) - t
            t = 2 * _apply(torch.bmm, resolvent, v + bias) - v
        return t > 0


def _apply(product: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """A product of matrices with one column each."""
    return product(*parts[:-1], parts[-1][..., None])[..., 0]
