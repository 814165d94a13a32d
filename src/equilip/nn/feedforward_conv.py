"""An ordinary convolutional network of one hidden layer as a form: the recurrence is zero (mathematics 1.4, 1.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip import wiring
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.module import check_sizes, uniform
from equilip.nn.standardise import Standardise
from equilip.operators import AveragePool, Conv2d, Padding, Plain, Shape, Zeros
from equilip.wiring import Wiring


class FeedForwardConv(torch.nn.Module):
    """y = C P σ(U ξ + b) + c: a convolution, a nonlinearity, means P over pool x pool pixels, a linear map.

    It is the convolutional equilibrium network with Λ = 1, ε = 1 and neither A nor B, for which W = I - ε I = 0: so it
    has that network's file and its certificate, which is ‖C P‖ ‖U‖, as far as these norms are proved. Nothing is
    guaranteed by construction.

    shape: the input's channels, height and width; images may be handed in as such or flattened. channels: of the hidden
        images, which are as large as the input. kernel_size: 1, 3, 5 or 7. padding: ``Zeros(0)`` or ``Circular(0)``;
        the width follows from the kernel. pool_padding: zeros around the hidden images before means are taken.

    Parameters: U (channels, c, k, k), b (channels,), C (q, pooled), c (q,). Raises InputError for sizes that do not
    fit.
    """

    def __init__(
        self,
        shape: Shape,
        channels: int,
        out_features: int,
        *,
        kernel_size: int = 3,
        padding: Padding | None = None,
        pool: int = 1,
        pool_padding: int = 0,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, out_features=out_features, pool=pool)
        if len(shape) != 3:
            raise InputError(f"shape is (channels, height, width) of the input, got {shape}")
        for size in shape:
            check_sizes(shape=size)
        if kernel_size not in (1, 3, 5, 7):
            raise InputError(f"kernel_size must be 1, 3, 5 or 7, got {kernel_size}")
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.hidden_shape: Shape = (channels, shape[1], shape[2])
        self.in_features, self.hidden_features = math.prod(shape), math.prod(self.hidden_shape)
        self.out_features = out_features
        self.kernel_size, self.pool, self.pool_padding = kernel_size, pool, pool_padding
        self.padding = Zeros(0) if padding is None else padding.of(0)
        self.activation = ReLU() if activation is None else activation
        self.input = None
        if standardisation is not None:
            self.input = Standardise(standardisation.mean, standardisation.std)

        def draw(*sizes: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        window = shape[0] * kernel_size**2
        self.U = draw(channels, shape[0], kernel_size, kernel_size, fan_in=window)
        self.b = draw(channels, fan_in=window)
        pooled = self._pool().out_size
        self.C = draw(out_features, pooled, fan_in=pooled)
        self.c = draw(out_features, fan_in=pooled)
        self.to(device=device, dtype=dtype)
        with torch.no_grad():
            self.form()  # says now what does not fit

    def _pool(self) -> AveragePool:
        return AveragePool(self.hidden_shape, self.pool, self.U.dtype, self.U.device, self.pool_padding)

    def forward(self, x: Tensor) -> Tensor:
        """The output: images (..., c, h, w), or flattened (..., in_features), raw -> (..., out_features)."""
        if x.shape[-3:] == self.shape and x.dim() >= 3:
            x = x.flatten(-3)
        rows = x.reshape(-1, self.in_features)
        xi = rows if self.input is None else self.input(rows)
        convolution = Conv2d(self.U, self.shape, self.padding.of(self.kernel_size // 2))
        images = convolution.apply(xi).unflatten(-1, self.hidden_shape) + self.b[:, None, None]
        y = torch.nn.functional.linear(self._pool().apply(self.activation.value(images).flatten(1)), self.C, self.c)
        return y.reshape(*x.shape[:-1], self.out_features)

    def form(self) -> Form:
        """The same network as one form, differentiable in the parameters."""
        channels, none = self.hidden_shape[0], self.U.new_zeros
        wired = Wiring(
            self.hidden_shape, self.U.new_ones(1, 1, 1), none(1, channels, 1, 1), none(channels, channels, 1, 1),
            self.U, self.C, self.padding, 1.0, None, Plain, self.pool, self.pool_padding,
        )  # fmt: skip
        standardisation = None if self.input is None else self.input.standardisation()
        return wiring.form(wired, self.b, self.c, self.activation, standardisation)

    def guarantee(self) -> None:
        """Nothing is promised."""
        return

    def extra_repr(self) -> str:
        return (
            f"{self.shape}, {self.hidden_shape[0]}, {self.out_features}, kernel_size={self.kernel_size}, "
            f"padding={type(self.padding).__name__}, pool={self.pool}, activation={self.activation.kind}"
        )
