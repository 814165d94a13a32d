"""Maps between layers of images that lengthen nothing: pooling, space to depth, more channels (mathematics 4.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import LinearImageLayer, image_shape
from equilip.nn.module import check_sizes
from equilip.operators import AveragePool, Dense, Diagonal, Operator, Product


class Glue(LinearImageLayer):
    """A linear map without parameters."""

    bias = None
    like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(0), persistent=False)

    def _like(self) -> Tensor:
        return self.like

    def proved_bound(self) -> float:
        return 1.0


class AveragePool2d(Glue):
    """Means over square blocks of kernel_size² pixels, as torch.nn.AvgPool2d; the norm is exactly 1 / kernel_size.

    The image must be made of whole blocks. Raises InputError where it is not.
    """

    def __init__(self, channels: int, kernel_size: int, *, image_size: int | tuple[int, int]) -> None:
        check_sizes(kernel_size=kernel_size)
        super().__init__()
        self.kernel_size = kernel_size
        shape = image_shape(channels, image_size)
        self._shapes(shape, AveragePool(shape, kernel_size, torch.float64, torch.device("cpu")).out_shape)

    def operator(self) -> Operator:
        return AveragePool(self.in_shape, self.kernel_size, self.like.dtype, self.like.device)

    def guarantee(self) -> Guarantee:
        return Guarantee(1 / self.kernel_size, self.like.new_zeros(0))

    def proved_bound(self) -> float:
        """1 / kernel_size, and what rounding the weight 1 / kernel_size² can add."""
        return 1 / self.kernel_size * (1 + 2 * torch.finfo(self.like.dtype).eps)

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}, {self.kernel_size}, image_size={self.in_shape[1:]}"


class ScaledAveragePool2d(AveragePool2d):
    """kernel_size times the means, so that the norm is exactly 1 and nothing of the slope is given away."""

    def operator(self) -> Operator:
        pool = super().operator()
        return Product(Diagonal(self.like.new_full((pool.out_size,), float(self.kernel_size))), pool)

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self.like.new_zeros(0))

    def proved_bound(self) -> float:
        return 1 + 4 * torch.finfo(self.like.dtype).eps


class SpaceToDepth(Glue):
    """Square blocks of size² pixels become channels, as torch.nn.PixelUnshuffle: a permutation.

    Raises InputError where the size does not divide the image.
    """

    def __init__(self, channels: int, size: int, *, image_size: int | tuple[int, int]) -> None:
        check_sizes(size=size)
        super().__init__()
        c, h, w = image_shape(channels, image_size)
        if h % size or w % size:
            raise InputError(f"an image of {h} x {w} pixels is not made of blocks of {size}; choose another size")
        self.size = size
        self._shapes((c, h, w), (c * size**2, h // size, w // size))

    def rows(self, x: Tensor) -> Tensor:
        return functional.pixel_unshuffle(x.unflatten(-1, self.in_shape), self.size).flatten(1)

    def operator(self) -> Operator:
        eye = torch.eye(self.in_features, dtype=self.like.dtype, device=self.like.device)
        return Dense(self.rows(eye).mT)

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}, {self.size}, image_size={self.in_shape[1:]}"


class PadChannels(Glue):
    """Channels of zeros after the others, up to ``out_channels``: an isometry."""

    def __init__(self, in_channels: int, out_channels: int, *, image_size: int | tuple[int, int]) -> None:
        check_sizes(in_channels=in_channels, out_channels=out_channels)
        super().__init__()
        c, h, w = image_shape(in_channels, image_size)
        if out_channels < c:
            raise InputError(f"{out_channels} channels cannot hold {c}; padding adds channels and drops none")
        self._shapes((c, h, w), (out_channels, h, w))

    def rows(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, self.out_features - self.in_features))

    def operator(self) -> Operator:
        return Dense(torch.eye(self.out_features, self.in_features, dtype=self.like.dtype, device=self.like.device))

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}, {self.out_shape[0]}, image_size={self.in_shape[1:]}"
