"""Convolutional equilibrium networks: bounded, or with one equilibrium and no more (mathematics 1.4, 2.2).

    W = I - Ψ (ε I + AᵀA + Bᵀ - B + (CᵀC + K)/(2γ)),    Ψ = diag(exp ψ) = Λ⁻¹

A and B are convolutions, C is average pooling and a linear map, and K >= (ΛU)(ΛU)ᵀ for the input layer U is made by
:class:`equilip.operators.Recurrence` from U itself. So there is no wiring for which the promise does not hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip import wiring
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.guarantee import Guarantee
from equilip.nn.image_equilibrium import ImageEquilibrium, sized
from equilip.nn.metrics import FullMetric, IdentityMetric, PixelMetric
from equilip.nn.module import check_sizes, uniform
from equilip.operators import (
    AveragePool,
    InputLayer,
    Padding,
    Plain,
    Shape,
    Weighted,
    Zeros,
)
from equilip.solve import Settings
from equilip.wiring import Wiring


class LBENConv(ImageEquilibrium):
    """An equilibrium network of images, with ‖y - y'‖₂ <= gamma ‖ξ - ξ'‖₂ for any parameters.

    shape: the input's channels, height and width; images may be handed in as such or flattened. channels: of the
        hidden images, which are as large as the input.
    gamma: the bound, with respect to the standardised input, head and pooling included; None promises only that there
        is exactly one equilibrium for every input.
    kernel_size: 1, 3, 5 or 7. metric: which neurons have multipliers of their own. padding: ``Zeros(0)`` or
        ``Circular(0)``; the widths follow from the kernels. pool: the output reads means over pool x pool pixels, after
        ``pool_padding`` zeros around. epsilon: the slack of the construction.
    input_layer: ``Weighted``, a convolution times Ψ, which every metric solves fast; or ``Plain``, as published.

    Parameters: A, B (channels, channels, k, k), U (channels, c, k, k), C (q, pooled), b (channels,), c (q,), psi (where
    the metric is free), beta () the size of B, log_a () that of A, and with gamma log_u, log_g () those of U and C:
    the kernels themselves are divided by their Frobenius norms. U and C start at the sizes of torch's own layers, C
    times ``pool``, for taking means over pool x pool pixels divides sizes by that much.

    Raises InputError for sizes that do not fit, and gamma or epsilon that are not positive.
    """

    psi: torch.nn.Parameter | None
    log_u: torch.nn.Parameter | None
    log_g: torch.nn.Parameter | None

    def __init__(
        self,
        shape: Shape,
        channels: int,
        out_features: int,
        gamma: float | None = None,
        *,
        kernel_size: int = 3,
        metric: PixelMetric | None = None,
        padding: Padding | None = None,
        pool: int = 1,
        pool_padding: int = 0,
        epsilon: float = 0.1,
        input_layer: type[InputLayer] = Weighted,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(channels=channels, out_features=out_features, pool=pool)
        if len(shape) != 3:
            raise InputError(f"shape is (channels, height, width) of the input, got {shape}")
        for size in shape:
            check_sizes(shape=size)
        if kernel_size not in (1, 3, 5, 7):
            raise InputError(f"kernel_size must be 1, 3, 5 or 7, got {kernel_size}")
        if gamma is not None and not (gamma > 0 and math.isfinite(gamma)):
            raise InputError(f"gamma, the bound on the slope, must be positive, got {gamma}")
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise InputError(f"epsilon must be positive, got {epsilon}")
        super().__init__(standardisation, settings)
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.hidden_shape: Shape = (channels, shape[1], shape[2])
        self.in_features, self.hidden_features = math.prod(shape), math.prod(self.hidden_shape)
        self.out_features = out_features
        self.kernel_size, self.pool, self.pool_padding = kernel_size, pool, pool_padding
        self.epsilon = float(epsilon)
        self.gamma = None if gamma is None else float(gamma)
        self.metric = FullMetric() if metric is None else metric
        self.padding = Zeros(0) if padding is None else padding.of(0)
        self.input_layer = input_layer
        self.activation = ReLU() if activation is None else activation
        pooled = self._pool(torch.get_default_dtype(), torch.device("cpu")).out_size

        def draw(*sizes: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        def scalar(value: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.tensor(value, device=device, dtype=dtype or torch.get_default_dtype()))

        k, c = kernel_size, channels
        self.U = draw(c, shape[0], k, k, fan_in=shape[0] * k * k)
        self.b = draw(c, fan_in=shape[0] * k * k)
        self.A = draw(c, c, k, k, fan_in=c * k * k)
        self.B = draw(c, c, k, k, fan_in=c * k * k)
        self.C = draw(out_features, pooled, fan_in=pooled)
        self.c = draw(out_features, fan_in=pooled)
        free = self.metric.shape(self.hidden_shape)
        psi = None if free is None else torch.nn.Parameter(torch.zeros(free, device=device, dtype=dtype))
        self.register_parameter("psi", psi)
        self.log_a, self.beta = scalar(0.0), scalar(1.0)
        with torch.no_grad():
            u, g = (2 * math.log(scale * float(t.norm())) for t, scale in ((self.U, 1), (self.C, pool)))
        self.log_u, self.log_g = (None, None) if gamma is None else (scalar(u), scalar(g))
        self.to(device=device, dtype=dtype)
        with torch.no_grad():
            self.form()  # says now what does not fit

    def _pool(self, dtype: torch.dtype, device: torch.device) -> AveragePool:
        return AveragePool(self.hidden_shape, self.pool, dtype, device, self.pool_padding)

    def form(self) -> Form:
        lam = torch.ones_like(self.A[:1, :1, 0]) if self.psi is None else torch.exp(-self.psi)
        A, B = sized(self.A, (0.5 * self.log_a).exp()), sized(self.B, self.beta)
        U: Tensor = self.U
        C: Tensor = self.C
        if self.log_u is not None and self.log_g is not None:
            U, C = sized(U, (0.5 * self.log_u).exp()), sized(C, (0.5 * self.log_g).exp())
        if self.psi is None:
            lam = lam[:, :, :1]
        wired = Wiring(
            self.hidden_shape, lam, A, B, U, C,
            self.padding, self.epsilon, self.gamma, self.input_layer, self.pool, self.pool_padding,
        )  # fmt: skip
        return wiring.form(wired, self.b, self.c, self.activation, self._standardisation())

    def guarantee(self) -> Guarantee:
        with torch.no_grad():
            lam = self.form().lam
        assert lam is not None
        return Guarantee(self.gamma, lam)

    def extra_repr(self) -> str:
        return (
            f"{self.shape}, {self.hidden_shape[0]}, {self.out_features}, gamma={self.gamma}, "
            f"kernel_size={self.kernel_size}, metric={type(self.metric).__name__}, "
            f"padding={type(self.padding).__name__}, pool={self.pool}, epsilon={self.epsilon:g}"
        )


class MonotoneConv(LBENConv):
    """A convolutional monotone network (monDEQ): Λ = 1, exactly one equilibrium for any parameters, no bound.

    m: the constant of strong monotonicity, positive. The rest as for :class:`LBENConv`.
    """

    def __init__(
        self,
        shape: Shape,
        channels: int,
        out_features: int,
        *,
        m: float = 0.1,
        kernel_size: int = 3,
        padding: Padding | None = None,
        pool: int = 1,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            shape,
            channels,
            out_features,
            kernel_size=kernel_size,
            metric=IdentityMetric(),
            padding=padding,
            pool=pool,
            epsilon=m,
            input_layer=Plain,
            activation=activation,
            standardisation=standardisation,
            settings=settings,
            device=device,
            dtype=dtype,
            generator=generator,
        )
