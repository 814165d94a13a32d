"""Sandwich layers of circular convolutions (mathematics 4.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip.activations import Activation, ReLU
from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import ImageLayer, image_shape
from equilip.nn.image_affine import blocks, orthonormal_kernel
from equilip.nn.layer import PROVED_STEPS
from equilip.nn.module import check_sizes, check_small, uniform
from equilip.nn.sandwich import LARGEST
from equilip.operators import Circulant, Dense, Zero, circular_bound
from equilip.rounding import UNIT_ROUNDOFF


class SandwichConv(ImageLayer):
    """y = √2 AᵀΨ σ(√2 Ψ⁻¹B x + b) with AAᵀ + BBᵀ = 1, A and B circular convolutions, Ψ one number per channel.

    Both come from Cayley's transform of one weight at every frequency; with Λ = Ψ² the LMI of mathematics 1.2 at γ = 1
    holds with equality. A stride s makes the image's blocks of s² pixels channels first, as in :class:`CayleyConv`:
    the output is 1/s as high and wide, and k = ⌈kernel_size / s⌉. Parameters: weight (out + s² in, out, k, k),
    length (), psi (out,), used within ±20, bias (out,). Raises InputError for what does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        image_size: int | tuple[int, int],
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride)
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.activation = ReLU() if activation is None else activation
        shape = image_shape(in_channels, image_size)
        inner, k = blocks(shape, kernel_size, stride)
        self._shapes(shape, (out_channels, *inner[1:]))

        def draw(*sizes: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=inner[0] * k**2, device=device, dtype=dtype, generator=generator)

        self.weight = draw(out_channels + inner[0], out_channels, k, k)
        self.length = torch.nn.Parameter(self.weight.detach().norm())
        self.psi = torch.nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype))
        self.bias = draw(out_channels)

    def kernels(self) -> tuple[Tensor, Tensor, Tensor]:
        """√2 Ψ⁻¹B (out, s² in, h, w), √2 AᵀΨ (out, out, h, w), and Ψ² (out,), h and w being those of the output."""
        Q = orthonormal_kernel(self.weight, self.length, *self.out_shape[1:])
        A, B = Q[: self.out_shape[0]], mirrored(Q[self.out_shape[0] :])
        scale = self.psi.clamp(-LARGEST, LARGEST).exp()
        return math.sqrt(2) * B / scale[:, None, None, None], math.sqrt(2) * A * scale[:, None, None], scale.square()

    def rows(self, x: Tensor) -> Tensor:
        U, C, _ = self.kernels()
        return Circulant(C).apply(self.activation.value(Circulant(U, self.stride).apply(x) + self._each(self.bias)))

    def form(self) -> Form:
        U, C, lam = self.kernels()
        n = self.out_features
        check_small(n, n)
        return Form(
            W=Dense(U.new_zeros(n, n)), U=Circulant(U, self.stride), b=self._each(self.bias), C=Circulant(C),
            D=Zero((n, self.in_features), U.dtype, U.device), c=U.new_zeros(n), activation=self.activation,
            lam=self._each(lam),
        )  # fmt: skip

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self._each((2 * self.psi.detach().clamp(-LARGEST, LARGEST)).exp()))

    def proved_bound(self) -> float:
        """½ ‖M‖² for M = [C Λ^(-1/2); Uᵀ Λ^(1/2)], a circular convolution itself, as for dense sandwiches."""
        with torch.no_grad():
            U, C, lam = (tensor.double() for tensor in self.kernels())
            root = lam.sqrt()[:, None, None]
            both = torch.cat([C / root, mirrored(U * root[..., None])])
            rounded = 4 * UNIT_ROUNDOFF * Circulant(both.abs()).sums()
            norm = float(circular_bound(both, *self.out_shape[1:], PROVED_STEPS))
            return 0.5 * (norm + rounded) ** 2 * (1 + 8 * UNIT_ROUNDOFF)

    def _each(self, channels: Tensor) -> Tensor:
        """One number per channel as one per neuron."""
        return channels.repeat_interleave(self.out_shape[1] * self.out_shape[2])

    def extra_repr(self) -> str:
        return (
            f"{self.in_shape[0]}, {self.out_shape[0]}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"image_size={self.in_shape[1:]}, activation={self.activation.kind}"
        )


def mirrored(kernel: Tensor) -> Tensor:
    """The kernel (n, m, h, w) of the adjoint of a circular convolution with ``kernel`` (m, n, h, w)."""
    return kernel.transpose(0, 1).flip(2, 3).roll((1, 1), dims=(2, 3))
