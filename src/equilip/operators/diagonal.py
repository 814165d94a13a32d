"""Pixelwise weights, and the mask of an image's border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.convolution import Shape
from equilip.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Diagonal(Operator):
    """Every number times its own weight, (n,)."""

    weights: Tensor
    kind = "diagonal"

    def __post_init__(self) -> None:
        if self.weights.dim() != 1:
            raise InputError(f"a diagonal operator needs a vector, got a tensor of shape {tuple(self.weights.shape)}")

    @property
    def in_size(self) -> int:
        return self.weights.shape[0]

    @property
    def out_size(self) -> int:
        return self.weights.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weights,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return Diagonal(*tensors)

    def apply(self, x: Tensor) -> Tensor:
        return x * self.weights

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.weights

    def transpose(self) -> Operator:
        return self

    def dense(self) -> Tensor:
        return torch.diag(self.weights)

    def norm_bound(self) -> float:
        return float(self.weights.detach().double().abs().amax()) if self.in_size else 0.0


@dataclass(frozen=True, eq=False)
class Reciprocal(Operator):
    """Every number divided by its own weight, (n,): exactly the inverse of a Diagonal in any number format."""

    weights: Tensor
    kind = "reciprocal"

    @property
    def in_size(self) -> int:
        return self.weights.shape[0]

    @property
    def out_size(self) -> int:
        return self.weights.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weights,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return Reciprocal(*tensors)

    def apply(self, x: Tensor) -> Tensor:
        return x / self.weights

    def adjoint(self, y: Tensor) -> Tensor:
        return y / self.weights

    def transpose(self) -> Operator:
        return self

    def dense(self) -> Tensor:
        return torch.diag(1 / self.weights)

    def norm_bound(self) -> float:
        if not self.in_size:
            return 0.0
        return 1 / float(self.weights.detach().double().abs().amin()) * (1 + 2 * torch.finfo(torch.float64).eps)


def border_mask(shape: Shape, width: int, *, dtype: torch.dtype, device: torch.device) -> Diagonal:
    """Sets the outermost ``width`` rows and columns of images of ``shape`` to zero."""
    _, h, w = shape
    if width < 0 or 2 * width > min(h, w):
        raise InputError(f"a border of {width} does not fit into an image of {h} x {w}")
    inner = torch.ones(shape[0], h - 2 * width, w - 2 * width, dtype=dtype, device=device)
    return Diagonal(functional.pad(inner, (width,) * 4).flatten())
