"""Multi-tier monotone networks: hidden images of several sizes, one equilibrium for any parameters (mathematics 2.4).

    W = I - X,    X_ii = m I + A_iᵀA_i + K_iᵀK_i + B_iᵀ - B_i,    X_{i+1,i} = 2 A_{i+1}ᵀN_i

A_i, B_i and K_i are convolutions of tier i, and N_i is K_i read at every second pixel: see
:class:`equilip.operators.Tiers` for why the symmetric part of I - W is at least m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from equilip import tiered
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.guarantee import Guarantee
from equilip.nn.image_equilibrium import ImageEquilibrium, sized
from equilip.nn.module import check_sizes, uniform
from equilip.operators import AveragePool, Padding, Shape, Zeros, tier_shapes
from equilip.solve import Settings


class MultiTierMonotone(ImageEquilibrium):
    """A monotone network of images in tiers (monDEQ): Λ = 1, exactly one equilibrium for any parameters, no bound.

    shape: the input's channels, height and width; images may be handed in as such or flattened. channels: of each
        tier's hidden images, two tiers or more. The first tier's images are as large as the input, each other's half as
        tall and wide as those before, rounded up. The input enters the first tier, the output reads the last.
    m: the constant of strong monotonicity, positive. kernel_size: 1, 3, 5 or 7. padding: ``Zeros(0)`` or
        ``Circular(0)``; the widths follow from the kernels. pool: the output reads means over pool x pool pixels.

    Parameters: A.i, B.i (c, c, k, k) of every tier, K.i (c', c, k, k) from one tier to the next, U (c_0, c_in, k, k),
    C (q, pooled), b (channels of all tiers,), c (q,); log_a (tiers,), beta (tiers,) and log_k (tiers - 1,), the sizes
    of A, B and K: the kernels themselves are divided by their Frobenius norms.

    Raises InputError for sizes that do not fit, and an m that is not positive.
    """

    def __init__(
        self,
        shape: Shape,
        channels: Sequence[int],
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
        check_sizes(out_features=out_features, pool=pool)
        if len(shape) != 3:
            raise InputError(f"shape is (channels, height, width) of the input, got {shape}")
        for size in shape:
            check_sizes(shape=size)
        if len(channels) < 2:
            raise InputError(f"channels has a number for each of two tiers or more, got {channels}; see MonotoneConv")
        for size in channels:
            check_sizes(channels=size)
        if kernel_size not in (1, 3, 5, 7):
            raise InputError(f"kernel_size must be 1, 3, 5 or 7, got {kernel_size}")
        if not (m > 0 and math.isfinite(m)):
            raise InputError(f"m must be positive, got {m}")
        super().__init__(standardisation, settings)
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.hidden_shapes = tier_shapes(self.shape, tuple(channels))
        self.in_features = math.prod(shape)
        self.hidden_features = sum(math.prod(hidden) for hidden in self.hidden_shapes)
        self.out_features = out_features
        self.kernel_size, self.pool, self.m = kernel_size, pool, float(m)
        self.padding = Zeros(0) if padding is None else padding.of(0)
        self.activation = ReLU() if activation is None else activation
        pooled = AveragePool(self.hidden_shapes[-1], pool, torch.get_default_dtype(), torch.device("cpu")).out_size

        def draw(*sizes: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*sizes, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        def kernels(ends: Sequence[tuple[int, int]]) -> torch.nn.ParameterList:
            return torch.nn.ParameterList([draw(after, c, k, k, fan_in=c * k * k) for c, after in ends])

        def full(count: int, value: float) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.full((count,), value, device=device, dtype=dtype))

        k, c = kernel_size, list(channels)
        self.U = draw(c[0], shape[0], k, k, fan_in=shape[0] * k * k)
        self.b = draw(sum(c), fan_in=shape[0] * k * k)
        self.A = kernels([(size, size) for size in c])
        self.B = kernels([(size, size) for size in c])
        self.K = kernels(list(pairwise(c)))
        self.C = draw(out_features, pooled, fan_in=pooled)
        self.c = draw(out_features, fan_in=pooled)
        self.log_a, self.beta, self.log_k = full(len(c), 0.0), full(len(c), 1.0), full(len(c) - 1, 0.0)
        with torch.no_grad():
            self.form()  # says now what does not fit

    def form(self) -> Form:
        scales = {"A": (0.5 * self.log_a).exp(), "B": self.beta, "K": (0.5 * self.log_k).exp()}
        A, B, K = (
            tuple(sized(kernel, size) for kernel, size in zip(getattr(self, name), sizes, strict=True))
            for name, sizes in scales.items()
        )
        kernels = tiered.Kernels(self.shape, A, B, K, self.U, self.C, self.padding, self.m, self.pool)
        return tiered.form(kernels, self.b, self.c, self.activation, self._standardisation())

    def guarantee(self) -> Guarantee:
        return Guarantee(None, torch.ones(self.hidden_features, dtype=self.b.dtype, device=self.b.device))

    def extra_repr(self) -> str:
        return (
            f"{self.shape}, {tuple(shape[0] for shape in self.hidden_shapes)}, {self.out_features}, m={self.m:g}, "
            f"kernel_size={self.kernel_size}, padding={type(self.padding).__name__}, pool={self.pool}"
        )
