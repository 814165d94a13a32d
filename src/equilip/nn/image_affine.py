"""Convolutions of norm at most 1: almost orthogonal, divided by their norm, orthogonal (mathematics 4.3, 4.4, 6)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.nn.cayley import brought_to, transform
from equilip.nn.dominance import dominating_channels
from equilip.nn.image import LinearImageLayer, image_shape, padding_of
from equilip.nn.layer import PROVED_STEPS
from equilip.nn.module import check_sizes, uniform
from equilip.operators import Circulant, Conv2d, Operator, Padding, Shape, circular_bound, convolution_bound
from equilip.operators.convolution import repeats


class AffineConv(LinearImageLayer):
    """y = A x + b, A the convolution with a kernel made from the weight, ‖A‖₂ <= 1; signature as torch.nn.Conv2d's.

    padding: a number of zeros on every side, or :class:`equilip.operators.Circular`. image_size: (height, width) of the
    input, or one number. Parameters: weight (out, in, k, k), bias (out,) or None. Raises InputError for what does not
    fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        bias: bool = True,
        *,
        image_size: int | tuple[int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding_of(padding)

        def draw(*shape: int) -> torch.nn.Parameter:
            fan_in = in_channels * kernel_size**2
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.weight = draw(out_channels, in_channels, kernel_size, kernel_size)
        self.register_parameter("bias", draw(out_channels) if bias else None)
        shape = image_shape(in_channels, image_size)
        self._shapes(shape, Conv2d(self.weight.detach(), shape, self.padding, stride).out_shape)

    @abstractmethod
    def kernel(self) -> Tensor:
        """What images are convolved with, (out, in, k, k), differentiable in the parameters."""

    def operator(self) -> Operator:
        return self._convolution(self.kernel())

    def proved_bound(self) -> float:
        with torch.no_grad():
            kernel = self.kernel().double()
            return float(convolution_bound(kernel, self.in_shape[1:], self.padding, self.stride, PROVED_STEPS))

    def _convolution(self, kernel: Tensor) -> Conv2d:
        return Conv2d(kernel, self.in_shape, self.padding, self.stride)

    def _room(self, kernel: Tensor) -> float:
        """The norm that rounding every number of a kernel, by at most two units, can add."""
        return 2 * torch.finfo(kernel.dtype).eps * self._convolution(kernel.detach()).norm_bound()

    def _like(self) -> Tensor:
        return self.weight.detach()

    def extra_repr(self) -> str:
        return (
            f"{self.in_shape[0]}, {self.out_shape[0]}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}, image_size={self.in_shape[1:]}"
        )


class AOLConv(AffineConv):
    """The kernel K diag(t)^(-1/2), t_j = Σ_i Σ_d |Σ_a K_j[a] K_i[a + d]| over input channels (mathematics 4.3).

    Valid for every padding and stride; where circular padding repeats pixels, t is that many times as large.
    """

    def kernel(self) -> Tensor:
        K = self.weight
        t = dominating_channels(K.transpose(0, 1)) * repeats(self.in_shape[1:], K.shape[2:], self.padding)
        shrunk = K / t.sqrt()[:, None, None]
        return shrunk / (1 + self._room(shrunk))


class SpectralConv(AffineConv):
    """The kernel divided by a proved bound on the convolution's norm (:func:`equilip.operators.convolution_bound`)."""

    def kernel(self) -> Tensor:
        K = self.weight
        bound = convolution_bound(K, self.in_shape[1:], self.padding, self.stride, 6) + self._room(K)
        return K / torch.where(bound > 0, bound, torch.ones_like(bound))


class CayleyConv(LinearImageLayer):
    """y = Q x + b, Q an orthogonal circular convolution: QQᵀ = 1 for fewer output channels than input, else QᵀQ = 1.

    Cayley's transform of the weight's symbol at every frequency (mathematics 4.4), so that Q's own kernel is as large
    as the image. A stride s makes the image's blocks of s² pixels channels first, which is orthogonal too: Q has
    s² in_channels to read, the output is 1/s as high and wide, and a kernel counts whole blocks, k = ⌈kernel_size / s⌉.
    Parameters: weight (out, s² in, k, k), bias (out,) or None, length (), to which the weight is brought (its own norm
    at first), in use within ±1000. Raises InputError for a kernel larger than the image, and for a stride that does not
    divide it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        *,
        image_size: int | tuple[int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        shape = image_shape(in_channels, image_size)
        inner, k = blocks(shape, kernel_size, stride)
        self._shapes(shape, (out_channels, *inner[1:]))

        def draw(*sizes: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=inner[0] * k**2, device=device, dtype=dtype, generator=generator)

        self.weight = draw(out_channels, inner[0], k, k)
        self.length = torch.nn.Parameter(self.weight.detach().norm())
        self.register_parameter("bias", draw(out_channels) if bias else None)

    def operator(self) -> Operator:
        tall = self.weight.shape[0] >= self.weight.shape[1]
        weight = self.weight if tall else self.weight.transpose(0, 1)
        Q = orthonormal_kernel(weight, self.length, *self.out_shape[1:])
        return Circulant(Q if tall else Q.transpose(0, 1), self.stride)

    def proved_bound(self) -> float:
        with torch.no_grad():
            operator = self.operator()
            return float(circular_bound(operator.tensors[0].double(), *self.out_shape[1:], PROVED_STEPS))

    def _like(self) -> Tensor:
        return self.weight.detach()

    def extra_repr(self) -> str:
        return (
            f"{self.in_shape[0]}, {self.out_shape[0]}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"bias={self.bias is not None}, image_size={self.in_shape[1:]}"
        )


def blocks(image: Shape, kernel_size: int, stride: int) -> tuple[Shape, int]:
    """The shape (s² c, h / s, w / s) of an image whose blocks of s² pixels are channels, and how many a kernel spans.

    InputError where the stride s does not divide the image, or the kernel is larger than it.
    """
    c, h, w = image
    if h % stride or w % stride:
        raise InputError(f"a stride of {stride} does not divide images of {h} x {w} pixels; choose another")
    torus, k = (h // stride, w // stride), -(-kernel_size // stride)
    if k > min(torus):
        raise InputError(f"a kernel of {kernel_size} does not fit on images of {h} x {w} pixels")
    return (c * stride**2, *torus), k


def orthonormal_kernel(weight: Tensor, length: Tensor, height: int, width: int) -> Tensor:
    """The kernel (m, n, height, width), m >= n, of a circular convolution Q with QᵀQ = 1, from any weight (m, n, k, k).

    Computed in float64. Frequencies that are their own opposites keep real matrices, so that Q is real.
    """
    X = brought_to(weight, length)
    k = weight.shape[-1]
    placed = torch.nn.functional.pad(X, (0, width - k, 0, height - k)).roll((-(k // 2),) * 2, dims=(2, 3))
    symbol = torch.fft.rfft2(placed).permute(2, 3, 0, 1)
    Q = transform(symbol).permute(2, 3, 0, 1)
    return torch.fft.irfft2(Q, s=(height, width)).to(weight.dtype)
