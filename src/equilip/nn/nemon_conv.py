"""Convolutional networks that contract in a weighted maximum norm (mathematics 3.3): any parameters, one equilibrium.

    W z = (m - Σ |K_c|) z_c + e^{-d} (K * e^{d} z),    the sum over all taps of channel c,

so that the centre tap and the absolute values of the others, weighted by η = e^{-d}, add up to m or less in each row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip import contracting
from equilip.activations import Activation, ReLU
from equilip.contracting import Kernels
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.guarantee import Guarantee
from equilip.nn.image_equilibrium import ImageEquilibrium
from equilip.nn.module import check_sizes, uniform
from equilip.operators import AveragePool, Padding, Shape, Zeros
from equilip.solve import Settings


class NEMONConv(ImageEquilibrium):
    """z = σ(W z + U ξ + b), y = C pool(z) + c for images, where W contracts in a weighted ℓ∞ norm for any parameters.

    shape: the input's channels, height and width; images may be handed in as such or flattened. channels: of the
        hidden images. stride: the input layer reads at every such pixel, so hidden images are that much smaller.
    m: what the weighted matrix measure of W stays below, less than 1. kernel_size: of W and of the input layer: 1, 3, 5
        or 7. padding: ``Zeros(0)`` or ``Circular(0)``; the widths follow from the kernels. pool: the output reads means
        over pool x pixels, after ``pool_padding`` zeros around.

    Parameters: K (channels, channels, k, k), d (channels,), U (channels, c, k, k), b (channels,), C (q, pooled) and
    c (q,).

    Raises InputError for sizes that do not fit, and for m not below 1.
    """

    def __init__(
        self,
        shape: Shape,
        channels: int,
        out_features: int,
        *,
        m: float = 0.0,
        kernel_size: int = 3,
        stride: int = 1,
        padding: Padding | None = None,
        pool: int = 1,
        pool_padding: int = 0,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(channels=channels, out_features=out_features, pool=pool, stride=stride)
        if len(shape) != 3:
            raise InputError(f"shape is (channels, height, width) of the input, got {shape}")
        for size in shape:
            check_sizes(shape=size)
        if kernel_size not in (1, 3, 5, 7):
            raise InputError(f"kernel_size must be 1, 3, 5 or 7, got {kernel_size}")
        if not (m < 1 and math.isfinite(m)):
            raise InputError(f"m bounds how much W may stretch in l-infinity and must be below 1, got {m}")
        super().__init__(standardisation, settings)
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.hidden_shape: Shape = (channels, (shape[1] - 1) // stride + 1, (shape[2] - 1) // stride + 1)
        self.in_features, self.hidden_features = math.prod(shape), math.prod(self.hidden_shape)
        self.out_features, self.m = out_features, float(m)
        self.kernel_size, self.stride, self.pool, self.pool_padding = kernel_size, stride, pool, pool_padding
        self.padding = Zeros(0) if padding is None else padding.of(0)
        self.activation = ReLU() if activation is None else activation
        pooled = AveragePool(
            self.hidden_shape, pool, torch.get_default_dtype(), torch.device("cpu"), pool_padding
        ).out_size

        def draw(*sizes: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        k, c = kernel_size, channels
        # Small, so that boxes start small: the taps that a neuron reads add up to about 1/2 in absolute value.
        self.U = draw(c, shape[0], k, k, fan_in=shape[0] * k * k)
        self.b = draw(c, fan_in=9 * shape[0] * k * k)
        self.K = draw(c, c, k, k, fan_in=(c * k * k) ** 2)
        self.d = torch.nn.Parameter(torch.zeros(c, device=device, dtype=dtype))
        self.C = draw(out_features, pooled, fan_in=pooled)
        self.c = draw(out_features, fan_in=pooled)
        self.to(device=device, dtype=dtype)
        with torch.no_grad():
            self.form()  # says now what does not fit

    @property
    def weights(self) -> Tensor:
        """η (channels,), positive: the norm max |z_i| / η_i in which W contracts."""
        return torch.exp(-self.d)

    def recurrence(self) -> Tensor:
        """W's kernel (channels, channels, k, k), differentiable."""
        own = self.K * torch.exp(self.d - self.d[:, None])[:, :, None, None]
        middle = self.kernel_size // 2
        centre = torch.zeros_like(own[0, 0])
        centre[middle, middle] = 1
        return own + torch.diag_embed(self.m - self.K.abs().sum(dim=(1, 2, 3)))[:, :, None, None] * centre

    def form(self) -> Form:
        kernels = Kernels(
            self.shape, self.hidden_shape, self.recurrence(), self.U, self.C,
            self.padding, self.stride, self.pool, self.pool_padding,
        )  # fmt: skip
        return contracting.form(kernels, self.b, self.c, self.activation, self._standardisation())

    def guarantee(self) -> Guarantee:
        with torch.no_grad():
            own = self.form().W.spectrum()
        # Where rounding has eaten its slack, as solvers and proofs will say.
        return Guarantee(None, torch.ones(self.hidden_features) if own is None else own.lam)

    def extra_repr(self) -> str:
        return (
            f"{self.shape}, {self.hidden_shape[0]}, {self.out_features}, m={self.m:g}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={type(self.padding).__name__}, pool={self.pool}"
        )
