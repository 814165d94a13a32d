"""What every linear map can do, and the transpose of any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a construction knows of its W: with X = Λ (I - W), mu ‖v‖² <= vᵀ X v <= L ‖v‖² and ‖X‖ <= norm.

    ``lam`` (n,) are the multipliers Λ. As computed, not proven; mu > 0 where the construction is sound.
    """

    lam: Tensor
    mu: float
    L: float
    norm: float


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

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        """A x + offset, in one operation where there is one."""
        return self.apply(x) + offset

    def transpose(self) -> Operator:
        """The adjoint as an operator of its own."""
        return Transposed(self)

    def dense(self) -> Tensor:
        """The matrix, (out_size, in_size); for maps that are not stored as one, only sensible when small."""
        like = self.tensors[0]
        if self.out_size < self.in_size:
            return self.adjoint(torch.eye(self.out_size, dtype=like.dtype, device=like.device))
        return self.apply(torch.eye(self.in_size, dtype=like.dtype, device=like.device)).mT

    def spectrum(self) -> Spectrum | None:
        """What is known by construction of this operator as the W of an equation; None where nothing is."""
        return None

    @abstractmethod
    def norm_bound(self) -> float:
        """An upper bound on the spectral norm, true for the stored numbers."""

    def pullback(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Gradients of Σ vᵀ A x with respect to ``tensors``, differentiable once more where gradients are recorded."""
        again = torch.is_grad_enabled()
        if not again:
            x, v = x.detach(), v.detach()
        with torch.enable_grad():
            # Views, for x itself may depend on the tensors (an equilibrium does), and that is not asked for here.
            keep = [again and t.requires_grad for t in self.tensors]
            tracked = tuple(
                t.view_as(t) if own else t.detach().requires_grad_() for t, own in zip(self.tensors, keep, strict=True)
            )
            value = self.rebuild(tracked).apply(x)
            return torch.autograd.grad(value, tracked, v, create_graph=again)

    def pushforward(self, tangents: tuple[Tensor | None, ...], x: Tensor) -> Tensor:
        """The change of A x when ``tensors`` change by these tangents (None: not at all)."""
        return self._change(tangents, lambda v: self.pullback(x, v), x.new_zeros(x.shape[0], self.out_size))

    def adjoint_pushforward(self, tangents: tuple[Tensor | None, ...], y: Tensor) -> Tensor:
        """The change of Aᵀ y when ``tensors`` change by these tangents."""
        return self._change(tangents, lambda v: self.pullback(v, y), y.new_zeros(y.shape[0], self.in_size))

    def _change(
        self, tangents: tuple[Tensor | None, ...], pullback: Callable[[Tensor], tuple[Tensor, ...]], zero: Tensor
    ) -> Tensor:
        """The derivative along the tangents, from the pullback: what v is paired with in Σ tangent · pullback(v)."""
        if all(tangent is None for tangent in tangents):
            return zero
        with torch.enable_grad():
            v = zero.requires_grad_()
            pairs = zip(tangents, pullback(v), strict=True)
            total = torch.stack([(tangent * own).sum() for tangent, own in pairs if tangent is not None]).sum()
            return torch.autograd.grad(total, v, create_graph=True)[0]


class WithProof(Operator):
    """A W that is well-posed by its definition: with X = Λ (I - W), vᵀ X v >= epsilon ‖v‖² for the stored numbers."""

    epsilon: float

    @property
    @abstractmethod
    def multipliers(self) -> Tensor:
        """Λ, one number per neuron: (n,)."""

    @abstractmethod
    def split(self, z: Tensor) -> Tensor:
        """X z = Λ (I - W) z for rows z (batch, n)."""

    @abstractmethod
    def split_adjoint(self, y: Tensor) -> Tensor:
        """Xᵀ y."""


@dataclass(frozen=True, eq=False)
class Transposed(Operator):
    """The adjoint of an operator that has no better form for it."""

    base: Operator
    kind = "transposed"

    @property
    def in_size(self) -> int:
        return self.base.out_size

    @property
    def out_size(self) -> int:
        return self.base.in_size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.base.tensors

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return Transposed(self.base.rebuild(tensors))

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return Transposed(self.base.to(dtype, device))

    def apply(self, x: Tensor) -> Tensor:
        return self.base.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.base.apply(y)

    def transpose(self) -> Operator:
        return self.base

    def dense(self) -> Tensor:
        return self.base.dense().mT

    def norm_bound(self) -> float:
        return self.base.norm_bound()

    def pullback(self, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return self.base.pullback(v, x)
