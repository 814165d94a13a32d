"""Convolutions of images whose ends meet, with kernels as large as the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.convolution import Conv2d, Shape, Zeros
from equilip.operators.gram_bound import circular_bound
from equilip.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class Circulant(Operator):
    """Images of (c, h, w), flattened, correlated with ``kernel`` (m, c, h, w): pixel u reads pixel u + d with tap d.

    With a stride s, images of (c, s h, s w) whose blocks of s² pixels are first made channels: the kernel is then
    (m, c s², h, w), and the map a convolution of the image read at every s-th pixel, as all such convolutions are.
    Applied by fast Fourier transforms, whose rounding is not that of a sum of products. Raises InputError for a
    kernel of another shape.
    """

    kernel: Tensor
    stride: int = 1
    kind = "circulant"

    def __post_init__(self) -> None:
        if self.kernel.dim() != 4:
            raise InputError(f"a circulant needs a kernel (out, in, h, w), got {tuple(self.kernel.shape)}")
        if self.stride < 1 or self.kernel.shape[1] % self.stride**2:
            raise InputError(
                f"a stride of {self.stride} needs whole blocks of channels, the kernel has {self.kernel.shape[1]}"
            )

    @property
    def shape(self) -> Shape:
        """Channels, height and width of what goes in."""
        _, c, h, w = self.kernel.shape
        return c // self.stride**2, h * self.stride, w * self.stride

    @property
    def out_shape(self) -> Shape:
        """Channels, height and width of what comes out."""
        m, _, h, w = self.kernel.shape
        return m, h, w

    @property
    def in_size(self) -> int:
        c, h, w = self.shape
        return c * h * w

    @property
    def out_size(self) -> int:
        m, h, w = self.out_shape
        return m * h * w

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.kernel,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return Circulant(tensors[0], self.stride)

    def apply(self, x: Tensor) -> Tensor:
        blocks = functional.pixel_unshuffle(x.unflatten(-1, self.shape), self.stride)
        return self._multiply(blocks, torch.fft.rfft2(self.kernel).conj()).flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        blocks = self._multiply(y.unflatten(-1, self.out_shape), torch.fft.rfft2(self.kernel).transpose(0, 1))
        return functional.pixel_shuffle(blocks, self.stride).flatten(1)

    def _multiply(self, images: Tensor, symbol: Tensor) -> Tensor:
        spectrum = torch.einsum("mchw,bchw->bmhw", symbol, torch.fft.rfft2(images))
        # The size is said, because an odd width does not follow from the half spectrum.
        return torch.fft.irfft2(spectrum, s=self.out_shape[1:])

    def dense(self) -> Tensor:
        """The matrix, whose entries are the kernel's, without rounding."""
        _, h, w = self.out_shape
        row, column = (torch.arange(n, device=self.kernel.device) for n in (h, w))
        tall, wide = (row - row[:, None]) % h, (column - column[:, None]) % w
        # (m, c, u, x, v, y): output pixel (u, v), input pixel (x, y).
        taps = self.kernel[:, :, tall[:, :, None, None], wide[None, None]]
        rows = taps.permute(0, 2, 4, 1, 3, 5).reshape(self.out_size, -1, h, w)
        return functional.pixel_shuffle(rows, self.stride).flatten(1)

    def norm_bound(self) -> float:
        return float(circular_bound(self.kernel.detach().double(), *self.out_shape[1:]))

    def sums(self) -> float:
        """√(‖A‖₁ ‖A‖∞), rounded up: the largest sums of absolute values of the kernel by input and by output."""
        blocks = self.kernel.detach()
        return Conv2d(blocks, (blocks.shape[1], *self.out_shape[1:]), Zeros(0)).norm_bound()
