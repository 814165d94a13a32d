"""Products and sums of operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Product(Operator):
    """First the right map, then the left one."""

    left: Operator
    right: Operator
    kind = "product"

    def __post_init__(self) -> None:
        if self.left.in_size != self.right.out_size:
            raise InputError(
                f"cannot multiply: the right operator gives {self.right.out_size} numbers, "
                f"the left one takes {self.left.in_size}"
            )

    @property
    def in_size(self) -> int:
        return self.right.in_size

    @property
    def out_size(self) -> int:
        return self.left.out_size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.left.tensors, *self.right.tensors)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        split = len(self.left.tensors)
        return Product(self.left.rebuild(tensors[:split]), self.right.rebuild(tensors[split:]))

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return Product(self.left.to(dtype, device), self.right.to(dtype, device))

    def apply(self, x: Tensor) -> Tensor:
        return self.left.apply(self.right.apply(x))

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        return self.left.plus(self.right.apply(x), offset)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.right.adjoint(self.left.adjoint(y))

    def norm_bound(self) -> float:
        return self.left.norm_bound() * self.right.norm_bound() * (1 + 2 * torch.finfo(torch.float64).eps)


@dataclass(frozen=True, eq=False)
class Sum(Operator):
    """The sum of maps between the same spaces."""

    terms: tuple[Operator, ...]
    kind = "sum"

    def __post_init__(self) -> None:
        if not self.terms or len({(t.in_size, t.out_size) for t in self.terms}) > 1:
            sizes = [(t.in_size, t.out_size) for t in self.terms]
            raise InputError(f"cannot add operators between different spaces: {sizes}")

    @property
    def in_size(self) -> int:
        return self.terms[0].in_size

    @property
    def out_size(self) -> int:
        return self.terms[0].out_size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for term in self.terms for tensor in term.tensors)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        terms = []
        for term in self.terms:
            own, tensors = tensors[: len(term.tensors)], tensors[len(term.tensors) :]
            terms.append(term.rebuild(own))
        return Sum(tuple(terms))

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return Sum(tuple(term.to(dtype, device) for term in self.terms))

    def apply(self, x: Tensor) -> Tensor:
        total = self.terms[0].apply(x)
        for term in self.terms[1:]:
            total = term.plus(x, total)
        return total

    def adjoint(self, y: Tensor) -> Tensor:
        total = self.terms[0].adjoint(y)
        for term in self.terms[1:]:
            total = total + term.adjoint(y)
        return total

    def norm_bound(self) -> float:
        unit = torch.finfo(torch.float64).eps
        return sum(term.norm_bound() for term in self.terms) * (1 + len(self.terms) * unit)
