"""What the terms of low rank do to the resolvent of a convolution (the formula of Woodbury).

With M = I + α × the convolution in X, and X's other terms F Fᵀ, r columns,

    (M + α F Fᵀ)⁻¹ = M⁻¹ - M⁻¹ F S Fᵀ M⁻¹,    S = (I/α + Fᵀ M⁻¹ F)⁻¹.

F holds the output map, r = q. A plain input layer under a metric that differs from pixel to pixel adds a column for
every pixel of the padded input: worth it where one W serves many inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.operators import Operator, Recurrence, Torus

#: Columns handled together while S is made.
COLUMNS = 64


class Correction(ABC):
    """R with the terms of low rank, from the ``blocks`` of R without them."""

    @abstractmethod
    def reflect(
        self,
        torus: Torus,
        blocks: Tensor,
        x: Tensor,
        workspace: tuple[Tensor, Tensor] | None,
        out: Tensor | None,
    ) -> Tensor:
        """R x for x (height, width, c, batch); ``out`` may be x itself."""

    @abstractmethod
    def transpose(self) -> Correction:
        """That of Rᵀ."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Correction:
        """The same in another number format."""


@dataclass(frozen=True, eq=False)
class Thin(Correction):
    """R x - left (right x), with a few columns: left (n, r), right (r, n), n numbers on the torus."""

    left: Tensor
    right: Tensor

    def reflect(
        self,
        torus: Torus,
        blocks: Tensor,
        x: Tensor,
        workspace: tuple[Tensor, Tensor] | None,
        out: Tensor | None,
    ) -> Tensor:
        small = self.right @ x.view(self.right.shape[1], -1)
        result = torus.multiply(blocks, x, workspace, out)
        result.view(self.left.shape[0], -1).addmm_(self.left, small, alpha=-1)
        return result

    def transpose(self) -> Thin:
        return Thin(self.right.mT, self.left.mT)

    def to(self, dtype: torch.dtype) -> Thin:
        return Thin(self.left.to(dtype), self.right.to(dtype))


@dataclass(frozen=True, eq=False)
class Wide(Correction):
    """With many columns F is applied as an operator: ``factor`` (from r numbers to the image), ``core`` S (r, r).

    R x = R₀ (x - u) - u with u = F S Fᵀ M⁻¹ x and M⁻¹ = (R₀ + I)/2.
    """

    factor: Factor
    core: Tensor

    def reflect(
        self,
        torus: Torus,
        blocks: Tensor,
        x: Tensor,
        workspace: tuple[Tensor, Tensor] | None,
        out: Tensor | None,
    ) -> Tensor:
        h, w = self.factor.shape[1:]
        resolved = torus.multiply(blocks, x, workspace).add_(x).mul_(0.5)
        small = self.factor.adjoint(resolved[:h, :w].permute(3, 2, 0, 1).flatten(1))
        image = self.factor.apply(small @ self.core.mT).unflatten(-1, self.factor.shape)
        u = torus.embed(image)
        rest = torch.sub(x, u, out=out) if out is not None else x - u
        return torus.multiply(blocks, rest, workspace, out).sub_(u)

    def transpose(self) -> Wide:
        return Wide(self.factor, self.core.mT)

    def to(self, dtype: torch.dtype) -> Wide:
        return Wide(self.factor.to(dtype), self.core.to(dtype))


@dataclass(frozen=True, eq=False)
class Factor:
    """F = [Cᵀ, Λ V] / √(2γ) of a W with a plain input layer."""

    shape: tuple[int, int, int]
    head: Operator
    valid: Operator
    lam: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.head.out_size + self.valid.in_size

    def apply(self, y: Tensor) -> Tensor:
        """(batch, rank) -> (batch, n)."""
        q = self.head.out_size
        return (self.head.adjoint(y[:, :q]) + self.lam * self.valid.apply(y[:, q:])) * self.scale

    def adjoint(self, z: Tensor) -> Tensor:
        """(batch, n) -> (batch, rank)."""
        return torch.cat([self.head.apply(z), self.valid.adjoint(self.lam * z)], dim=1) * self.scale

    def to(self, dtype: torch.dtype) -> Factor:
        return replace(self, head=self.head.to(dtype, None), valid=self.valid.to(dtype, None), lam=self.lam.to(dtype))


def rank(W: Recurrence) -> int:
    """How many columns F has."""
    if W.ends is None:
        return 0
    return W.ends.head.out_size + (W.valid.in_size if W.uneven else 0)


def correction(W: Recurrence, torus: Torus, blocks: Tensor, alpha: float) -> Correction | None:
    """What W's terms of low rank add to the resolvent of its convolution, R₀ = ``blocks``; None where it has none."""
    if W.ends is None:
        return None
    scale = (2 * W.ends.gamma) ** -0.5
    if not W.uneven:
        eye = torch.eye(W.ends.head.out_size, dtype=torus.dtype, device=torus.device)
        columns = torus.embed((W.ends.head.adjoint(eye) * scale).unflatten(-1, W.shape))
        F = columns.flatten(0, 2)
        solved = torus.multiply(blocks, columns).add_(columns).mul_(0.5).flatten(0, 2)
        adjoint = torus.multiply(blocks.mT, columns).add_(columns).mul_(0.5).flatten(0, 2)
        core = torch.linalg.inv(eye / alpha + F.mT @ solved)
        return Thin(2 * solved @ core, adjoint.mT.contiguous())
    factor = Factor(W.shape, W.ends.head, W.valid, W.multipliers, scale)
    r = factor.rank
    h, w = W.shape[1:]
    S = torch.empty(r, r, dtype=torus.dtype, device=torus.device)
    for start in range(0, r, COLUMNS):
        some = torch.zeros(min(COLUMNS, r - start), r, dtype=torus.dtype, device=torus.device)
        some.diagonal(start).fill_(1.0)
        columns = torus.embed(factor.apply(some).unflatten(-1, W.shape))
        solved = torus.multiply(blocks, columns).add_(columns).mul_(0.5)
        S[:, start : start + len(some)] = factor.adjoint(solved[:h, :w].permute(3, 2, 0, 1).flatten(1)).mT
    S.diagonal().add_(1 / alpha)
    return Wide(factor, torch.linalg.inv(S))
