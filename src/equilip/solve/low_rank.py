"""What the terms of low rank do to the resolvent of a convolution (the formula of Woodbury).

With M = I + α × the convolution in X, and X's other terms F Fᵀ, r columns,

    (M + α F Fᵀ)⁻¹ = M⁻¹ - M⁻¹ F S Fᵀ M⁻¹,    S = (I/α + Fᵀ M⁻¹ F)⁻¹.

F holds the output map, r = q. A plain input layer under a metric that differs from pixel to pixel adds a column for
every pixel of the padded input: worth it where one W serves many inputs.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.operators import Recurrence, Shape, Torus

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
        h, w = self.factor.height, self.factor.width
        resolved = torus.multiply(blocks, x, workspace).add_(x).mul_(0.5)
        u = self.factor.apply(self.core @ self.factor.adjoint(resolved[:h, :w]))
        rest = x.clone() if out is None else out.copy_(x)
        rest[:h, :w] -= u
        result = torus.multiply(blocks, rest, workspace, out)
        result[:h, :w] -= u
        return result

    def transpose(self) -> Wide:
        return Wide(self.factor, self.core.mT)

    def to(self, dtype: torch.dtype) -> Wide:
        return Wide(self.factor.to(dtype), self.core.to(dtype))


@dataclass(frozen=True, eq=False)
class Factor:
    """F = [Cᵀ, Λ V] / √(2γ) of a W with a plain input layer, for images laid out as (height, width, c, batch).

    head (h w c, q): the columns of Cᵀ; taps (c, k k c_in): V's kernel; lam (h or 1, w or 1, c or 1, 1); rows, columns:
    which pixel of V's input is where after padding.
    """

    head: Tensor
    taps: Tensor
    lam: Tensor
    rows: Tensor
    columns: Tensor
    image: Shape
    shape: Shape
    scale: float

    @classmethod
    def of(cls, W: Recurrence) -> Factor:
        assert W.ends is not None
        kernel, k = W.ends.input.kernel.detach(), W.ends.input.kernel.shape[-1]
        eye = torch.eye(W.ends.head.out_size, dtype=kernel.dtype, device=kernel.device)
        head = W.ends.head.adjoint(eye).detach().unflatten(-1, W.shape).permute(2, 3, 1, 0).flatten(0, 2)
        image = W.valid.shape
        before = W.valid.padding.width
        rows, columns = (
            (torch.arange(size + k - 1, device=kernel.device) - before) % n
            for size, n in zip(W.shape[1:], image[1:], strict=True)
        )
        taps = kernel.permute(0, 2, 3, 1).flatten(1).contiguous()
        lam = W.lam.detach().permute(1, 2, 0).unsqueeze(-1).contiguous()
        return cls(head.contiguous(), taps, lam, rows, columns, image, W.shape, (2 * W.ends.gamma) ** -0.5)

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def rank(self) -> int:
        return self.head.shape[1] + math.prod(self.image)

    def _windows(self) -> Iterator[tuple[slice, slice]]:
        """Where the pixels that each tap reads begin and end in the padded input."""
        k = len(self.rows) - self.height + 1
        for i, j in itertools.product(range(k), repeat=2):
            yield slice(i, i + self.height), slice(j, j + self.width)

    def apply(self, y: Tensor) -> Tensor:
        """(rank, batch) -> (h, w, c, batch)."""
        q = self.head.shape[1]
        grown = y[q:].unflatten(0, self.image).permute(1, 2, 0, 3)[self.rows][:, self.columns]
        patches = torch.cat([grown[i, j] for i, j in self._windows()], dim=2)
        image = torch.matmul(self.taps, patches).mul_(self.lam)
        return image.add_((self.head @ y[:q]).view_as(image)).mul_(self.scale)

    def adjoint(self, x: Tensor) -> Tensor:
        """(h, w, c, batch) -> (rank, batch)."""
        patches = torch.matmul(self.taps.mT, self.lam * x).chunk(len(self.taps[0]) // self.image[0], dim=2)
        grown = x.new_zeros(len(self.rows), len(self.columns), self.image[0], x.shape[-1])
        for (i, j), patch in zip(self._windows(), patches, strict=True):
            grown[i, j] += patch
        tall = grown.new_zeros(self.image[1], *grown.shape[1:]).index_add_(0, self.rows, grown)
        image = tall.new_zeros(len(tall), self.image[2], *tall.shape[2:]).index_add_(1, self.columns, tall)
        head = self.head.mT @ x.reshape(len(self.head), -1)
        return torch.cat([head, image.permute(2, 0, 1, 3).flatten(0, 2)]).mul_(self.scale)

    def to(self, dtype: torch.dtype) -> Factor:
        return replace(self, head=self.head.to(dtype), taps=self.taps.to(dtype), lam=self.lam.to(dtype))


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
    factor = Factor.of(W)
    r = factor.rank
    h, w = W.shape[1:]
    S = torch.empty(r, r, dtype=torus.dtype, device=torus.device)
    columns = torch.zeros(torus.height, torus.width, W.shape[0], COLUMNS, dtype=torus.dtype, device=torus.device)
    some = torch.zeros(r, COLUMNS, dtype=torus.dtype, device=torus.device)
    for start in range(0, r, COLUMNS):
        some.zero_().diagonal(-start).fill_(1.0)
        columns[:h, :w] = factor.apply(some)
        solved = torus.multiply(blocks, columns).add_(columns).mul_(0.5)
        S[:, start : start + COLUMNS] = factor.adjoint(solved[:h, :w])[:, : r - start]
    S.diagonal().add_(1 / alpha)
    return Wide(factor, torch.linalg.inv(S))
