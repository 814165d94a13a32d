"""Some of a vector's entries; the transpose puts them among zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Part(Operator):
    """The entries ``start`` to ``stop`` (not included) of vectors of length ``in_size``."""

    start: int
    stop: int
    size: int
    dtype: torch.dtype
    device: torch.device
    kind = "part"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= self.size:
            raise InputError(f"a vector of {self.size} numbers has no entries {self.start} to {self.stop}")

    @property
    def in_size(self) -> int:
        return self.size

    @property
    def out_size(self) -> int:
        return self.stop - self.start

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return self

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return replace(self, dtype=dtype or self.dtype, device=device or self.device)

    def apply(self, x: Tensor) -> Tensor:
        return x[..., self.start : self.stop]

    def adjoint(self, y: Tensor) -> Tensor:
        return functional.pad(y, (self.start, self.size - self.stop))

    def dense(self) -> Tensor:
        return self.apply(torch.eye(self.size, dtype=self.dtype, device=self.device)).mT

    def norm_bound(self) -> float:
        return 1.0
