"""Linear maps: apply, adjoint, norm bound, dense matrix.

A form asks its W, U, C and D for nothing else, so a convolutional network is the same form with other
linear maps, and no solver or certificate asks "dense or convolution?" except where a matrix makes a better
method possible; then it asks :meth:`Operator.dense`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import InputError


class Operator(ABC):
    """A linear map from vectors of length ``in_size`` to vectors of length ``out_size``, batch first."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in files."""

    @property
    @abstractmethod
    def in_size(self) -> int: ...

    @property
    @abstractmethod
    def out_size(self) -> int: ...

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What defines the map; gradients of a solved network flow to these."""

    @abstractmethod
    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        """The same kind of map defined by other tensors."""

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        """The same map in another number format or on another device."""
        return self.rebuild(tuple(t.to(device=device, dtype=dtype) for t in self.tensors))

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x for every row x: (batch, in_size) -> (batch, out_size)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y for every row y: (batch, out_size) -> (batch, in_size)."""

    @abstractmethod
    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        """A x + offset, in one operation where there is one."""

    @abstractmethod
    def transpose(self) -> Operator:
        """The adjoint as an operator of its own."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix, (out_size, in_size)."""

    @abstractmethod
    def norm_bound(self) -> float:
        """An upper bound on the spectral norm, true for the stored numbers."""

    def pullback(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Gradients of Σ vᵀ A x with respect to ``tensors``, differentiable once more."""
        with torch.enable_grad():
            tracked = tuple(t if t.requires_grad else t.detach().requires_grad_() for t in self.tensors)
            value = self.rebuild(tracked).apply(x)
            return torch.autograd.grad(value, tracked, v, create_graph=True)

    @abstractmethod
    def pushforward(self, tangents: tuple[Tensor | None, ...], x: Tensor) -> Tensor:
        """The change of A x when ``tensors`` change by these tangents (None: not at all)."""

    @abstractmethod
    def adjoint_pushforward(self, tangents: tuple[Tensor | None, ...], y: Tensor) -> Tensor:
        """The change of Aᵀ y when ``tensors`` change by these tangents."""


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
