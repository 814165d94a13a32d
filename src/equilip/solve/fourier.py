"""Peaceman-Rachford in the Fourier domain, for convolutional W = I - Ψ X (mathematics 1.4, 1.7).

With Λ as preconditioner the equation is 0 ∈ X z - Λ bias + Λ ∂f(z), and the resolvent is (I + αX)⁻¹: Λ is gone from it,
so a metric that differs at every pixel costs nothing. X is a circular convolution on a torus a little larger than the
image, whose surplus pixels are neurons with σ = 0, plus terms of low rank. The step α = 1/√(μL) comes from the symbol;
where that says too little of L, from a few steps of power iteration too, for every step is legal.

The adjoint equation v = J (Wᵀ v + g) is the same one for q = Ψ v with Xᵀ for X and g for Λ bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.activations import Activation, Blockwise, Slopes
from equilip.errors import InputError
from equilip.operators import Operator, Recurrence, Torus, Transposed
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.low_rank import Correction, correction
from equilip.solve.metric import Metric

#: What an estimate of L is multiplied by, for it comes from below.
MARGIN = 1.1


class FourierRun(Run[Tensor]):
    """The state is t on the torus, (height, width, c, batch)."""

    def __init__(self, equation: Equation, prepared: PreparedFourier, c: Tensor | None = None) -> None:
        self.equation = equation
        self.prepared = prepared
        batch = equation.bias.shape[0]
        channels, self.height, self.width = prepared.shape
        self.workspace = prepared.torus.workspace(channels, batch)
        self.sigma = _laid_out(equation.activation, prepared.shape)
        #: The proximal map of neuron i has the step α λ_i.
        self.step_size = prepared.alpha * prepared.lam.permute(1, 2, 0).unsqueeze(-1)
        self.reflection = self.sigma.reflection(self.step_size)
        if c is None:
            source = self._images(equation.bias)
            if not prepared.transposed:
                source = source * prepared.lam
            u = prepared.torus.embed(source)
            c = (prepared.reflect(u, self.workspace).add_(u)).mul_(prepared.alpha)
        self.c = c

    def _images(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.prepared.shape)

    def start(self, z: Tensor | None) -> Tensor:
        if z is None:
            return self.c.clone()
        # At the equilibrium the proximal map takes z + α Λ (W z + bias - z) back to z; around the image t is unknown.
        slack = self.equation.W.plus(z, self.equation.bias) - z
        lam = self.prepared.lam
        point, slack = self._images(z), self._images(slack)
        if self.prepared.transposed:
            point, slack = point / lam, slack / lam
        return self.prepared.torus.embed(point + self.prepared.alpha * lam * slack)

    def step(self, state: Tensor) -> Tensor:
        return self._iterate(state.clone(), 1)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        return self._iterate(state.clone(), steps) if steps else state

    def _iterate(self, state: Tensor, steps: int) -> Tensor:
        inner = state[: self.height, : self.width]
        uneven = self.prepared.torus.height > self.height or self.prepared.torus.width > self.width
        for _ in range(steps):
            # v = 2 prox(t) - t, in place; around the image prox is zero.
            inside = self.reflection(inner)
            if uneven:
                state.neg_()
            inner.copy_(inside)
            self.prepared.reflect(state, self.workspace, out=state).add_(self.c)
        return state

    def read(self, state: Tensor) -> Tensor:
        z = self.sigma.prox(state[: self.height, : self.width], self.step_size)
        images = z.permute(3, 2, 0, 1)
        if self.prepared.transposed:
            images = images * self.prepared.lam
        return images.flatten(1)

    def narrow(self, rows: Tensor) -> FourierRun:
        return FourierRun(self.equation.narrow(rows), self.prepared, self.c[..., rows].contiguous())

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[..., rows].contiguous()


def _laid_out(sigma: Activation, shape: tuple[int, int, int]) -> Activation:
    """σ for numbers laid out as (height, width, c, batch)."""
    if isinstance(sigma, Slopes):
        return Slopes(sigma.j.unflatten(-1, shape).permute(2, 3, 1, 0).contiguous(), sigma.binary)
    if isinstance(sigma, Blockwise):
        raise InputError(
            "the Fourier solver takes one activation for all neurons; use ForwardBackward() for this network"
        )
    return sigma


@dataclass(frozen=True, eq=False)
class PreparedFourier(Prepared):
    """R = 2 (I + αX)⁻¹ - I: its convolution as ``blocks`` of the torus, and what is no convolution of it.

    ``lam`` (c, h, w or 1s). ``transposed``: whether this is for Wᵀ, X then being Xᵀ.
    """

    shape: tuple[int, int, int]
    torus: Torus
    blocks: Tensor
    correction: Correction | None
    lam: Tensor
    alpha: float
    rate: float
    transposed: bool = False

    def reflect(self, x: Tensor, workspace: tuple[Tensor, Tensor] | None = None, out: Tensor | None = None) -> Tensor:
        """R x for x on the torus; ``out`` may be x itself."""
        if self.correction is None:
            return self.torus.multiply(self.blocks, x, workspace, out)
        return self.correction.reflect(self.torus, self.blocks, x, workspace, out)

    def run(self, equation: Equation, tolerance: float) -> FourierRun:
        return FourierRun(equation, self)

    def transpose(self) -> PreparedFourier:
        other = None if self.correction is None else self.correction.transpose()
        return replace(self, blocks=self.blocks.mT, correction=other, transposed=not self.transposed)

    def to(self, dtype: torch.dtype) -> PreparedFourier:
        return replace(
            self,
            torus=self.torus.to(dtype),
            blocks=self.blocks.to(dtype),
            correction=None if self.correction is None else self.correction.to(dtype),
            lam=self.lam.to(dtype),
        )


@dataclass(frozen=True)
class FourierPeacemanRachford(Solver):
    """For networks of ``nn.LBENConv`` and ``nn.MonotoneConv``.

    ``alpha``: the step; None takes 1/√(μL) from the symbol.
    """

    unrolls = False

    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise InputError(f"the step alpha must be positive, got {self.alpha}")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedFourier:
        if isinstance(W, Transposed) and isinstance(W.base, Recurrence):
            return self.prepare(W.base, metric).transpose()
        if not isinstance(W, Recurrence):
            raise InputError("the Fourier solver is for convolutional networks; leave the choice to Auto()")
        own = W.spectrum() if metric is None or metric.own is None else metric.own
        # L bounds a term that Λ makes uneven by Λ's largest entry, at a hundred times what it may be.
        L = min(own.L, MARGIN * W.largest()) if W.uneven else own.L
        alpha = self.alpha or 1 / math.sqrt(own.mu * L)
        low, high = alpha * own.mu, alpha * L
        rate = max(abs(1 - low) / (1 + low), abs(1 - high) / (1 + high))
        with torch.no_grad():
            height, width = W.torus_size
            torus = Torus(height, width, W.lam.dtype, W.lam.device)
            symbol = W.symbol
            eye = torch.eye(W.shape[0], dtype=symbol.dtype, device=symbol.device)
            blocks = torus.blocks(2 * torch.linalg.inv(eye + alpha * symbol) - eye)
            return PreparedFourier(
                W.shape, torus, blocks, correction(W, torus, blocks, alpha), W.lam.detach(), alpha, rate
            )
