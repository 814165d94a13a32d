"""Matrices, and the map to zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Dense(Operator):
    """A matrix of shape (out_size, in_size)."""

    matrix: Tensor
    kind = "dense"

    def __post_init__(self) -> None:
        if self.matrix.dim() != 2:
            raise InputError(f"a dense operator needs a matrix, got a tensor of shape {tuple(self.matrix.shape)}")

    @property
    def in_size(self) -> int:
        return self.matrix.shape[1]

    @property
    def out_size(self) -> int:
        return self.matrix.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return Dense(*tensors)

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        return torch.addmm(offset, x, self.matrix.mT)

    def transpose(self) -> Operator:
        return Dense(self.matrix.mT)

    def dense(self) -> Tensor:
        return self.matrix

    def norm_bound(self) -> float:
        """The Frobenius norm, rounded up: crude, and true."""
        matrix = self.matrix.detach().double()
        return float(torch.linalg.matrix_norm(matrix)) * (1 + matrix.numel() * torch.finfo(torch.float64).eps)

    def pullback(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return (v.mT @ x,)

    def pushforward(self, tangents: tuple[Tensor | None, ...], x: Tensor) -> Tensor:
        (change,) = tangents
        return x.new_zeros(x.shape[0], self.out_size) if change is None else x @ change.mT

    def adjoint_pushforward(self, tangents: tuple[Tensor | None, ...], y: Tensor) -> Tensor:
        (change,) = tangents
        return y.new_zeros(y.shape[0], self.in_size) if change is None else y @ change


@dataclass(frozen=True, eq=False)
class Zero(Operator):
    """The map to zero, of a matrix's ``shape``; what D is in a network without feed-through."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    kind = "zero"

    @property
    def in_size(self) -> int:
        return self.shape[1]

    @property
    def out_size(self) -> int:
        return self.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return self

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return Zero(self.shape, dtype or self.dtype, device or self.device)

    def apply(self, x: Tensor) -> Tensor:
        return x.new_zeros((*x.shape[:-1], self.out_size))

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros((*y.shape[:-1], self.in_size))

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        return offset.expand(*x.shape[:-1], self.out_size)

    def transpose(self) -> Operator:
        return Zero((self.in_size, self.out_size), self.dtype, self.device)

    def dense(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def norm_bound(self) -> float:
        return 0.0

    def pullback(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return ()

    def pushforward(self, tangents: tuple[Tensor | None, ...], x: Tensor) -> Tensor:
        return self.apply(x)

    def adjoint_pushforward(self, tangents: tuple[Tensor | None, ...], y: Tensor) -> Tensor:
        return self.adjoint(y)
