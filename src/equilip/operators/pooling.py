"""Average pooling, and upsampling, which is its adjoint up to a factor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.algebra import Product
from equilip.operators.convolution import Shape
from equilip.operators.diagonal import Diagonal
from equilip.operators.operator import Operator, Transposed


@dataclass(frozen=True, eq=False)
class AveragePool(Operator):
    """Means over blocks of ``size`` x ``size`` pixels of images of ``shape`` (c, h, w), ``padding`` zeros around.

    The padded image must be made of whole blocks; padded zeros count. The norm is exactly 1/size where a block
    lies wholly inside the image.
    """

    shape: Shape
    size: int
    dtype: torch.dtype
    device: torch.device
    padding: int = 0
    kind = "average_pool"

    def __post_init__(self) -> None:
        if self.size < 1 or self.padding < 0 or self.padding >= self.size:
            raise InputError(f"pooling needs a size >= 1 and a padding below it, got {self.size} and {self.padding}")
        for length in self.shape[1:]:
            if (length + 2 * self.padding) % self.size:
                raise InputError(
                    f"an image of {self.shape[1:]} padded by {self.padding} is not made of blocks of {self.size}; "
                    "choose another pool"
                )

    @property
    def out_shape(self) -> Shape:
        """Channels, height and width of what comes out."""
        c, h, w = self.shape
        return c, (h + 2 * self.padding) // self.size, (w + 2 * self.padding) // self.size

    @property
    def in_size(self) -> int:
        c, h, w = self.shape
        return c * h * w

    @property
    def out_size(self) -> int:
        c, h, w = self.out_shape
        return c * h * w

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return self

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        return replace(self, dtype=dtype or self.dtype, device=device or self.device)

    def apply(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x.unflatten(-1, self.shape), self.size, padding=self.padding).flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        scaled = y.unflatten(-1, self.out_shape) / self.size**2
        grown = scaled.repeat_interleave(self.size, 2).repeat_interleave(self.size, 3)
        return functional.pad(grown, (-self.padding,) * 4).flatten(1)

    def dense(self) -> Tensor:
        return self.apply(torch.eye(self.in_size, dtype=self.dtype, device=self.device)).mT

    def norm_bound(self) -> float:
        return 1 / self.size * (1 + 4 * torch.finfo(torch.float64).eps)


def upsample(shape: Shape, size: int, *, dtype: torch.dtype, device: torch.device) -> Operator:
    """Every pixel of images of ``shape`` repeated as a block of size x size: size² times the adjoint of pooling."""
    c, h, w = shape
    pool = AveragePool((c, h * size, w * size), size, dtype, device)
    scale = torch.full((pool.in_size,), float(size**2), dtype=dtype, device=device)
    return Product(Diagonal(scale), Transposed(pool))
