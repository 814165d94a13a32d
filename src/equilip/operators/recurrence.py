"""The W of a convolutional network with a proof built in (mathematics 1.4).

    W = I - Ψ X,    X = ε I + AᵀA + Bᵀ - B + (CᵀC + K)/(2γ),    Ψ = Λ⁻¹

A and B are convolutions, C is the network's own output map and K >= (ΛU)(ΛU)ᵀ for its own input map U, by
construction: then 2Λ - ΛW - WᵀΛ - (CᵀC + ΛUUᵀΛ)/γ >= 2 (AᵀA + ε I) is positive definite for any kernels. Nothing is
approximated: this is what W is, for the numbers stored.

With zero padding A is the full convolution (every overlap with the image counts), so that AᵀA, B and K are one
convolution with a kernel of 2k - 1: K = V Vᵀ, V the convolution without padding on a larger image, of which U is a
part. With circular padding everything is circulant and K = (ΛU)(ΛU)ᵀ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.algebra import Product
from equilip.operators.convolution import (
    Circular,
    Conv2d,
    Padding,
    Shape,
    adjoint_kernel,
    co_gram_kernel,
    gram_kernel,
)
from equilip.operators.diagonal import Reciprocal
from equilip.operators.gram_bound import gram_bound, symbol
from equilip.operators.operator import Operator, Spectrum, WithProof
from equilip.operators.torus import Torus


@dataclass(frozen=True, eq=False)
class InputLayer(ABC):
    """How the input enters: by a convolution with ``kernel`` (c, c_in, k, k) that keeps the image's size."""

    kernel: Tensor

    @abstractmethod
    def operator(self, shape: Shape, padding: Padding, lam: Tensor) -> Operator:
        """U, for hidden images of ``shape`` and multipliers ``lam``."""

    def _convolution(self, shape: Shape, padding: Padding) -> Conv2d:
        image = (self.kernel.shape[1], *shape[1:])
        return Conv2d(self.kernel, image, padding.of(self.kernel.shape[-1] // 2))


@dataclass(frozen=True, eq=False)
class Weighted(InputLayer):
    """U = Ψ ∘ convolution: ΛU is a convolution, whatever Λ is, and the network is solved in the Fourier domain."""

    def operator(self, shape: Shape, padding: Padding, lam: Tensor) -> Operator:
        return Product(Reciprocal(lam.expand(shape).flatten()), self._convolution(shape, padding))


@dataclass(frozen=True, eq=False)
class Plain(InputLayer):
    """U = convolution, as published; ΛUUᵀΛ is a convolution only where Λ is the same at every pixel."""

    def operator(self, shape: Shape, padding: Padding, lam: Tensor) -> Operator:
        return self._convolution(shape, padding)


@dataclass(frozen=True, eq=False)
class Ends:
    """What a bound γ has to know: the input layer, the output map C (q, n), and γ itself."""

    input: InputLayer
    head: Operator
    gamma: float


@dataclass(frozen=True, eq=False)
class Recurrence(WithProof):
    """W of the module's first line, for hidden images of ``shape`` (c, h, w).

    lam: (c or 1, h or 1, w or 1), the multipliers, positive; A (m, c, k, k), B (c, c, k, k): kernels of odd size, B
    None for none. padding: ``Zeros(0)`` or ``Circular(0)``, for the kind alone. ends: None leaves out the terms
    of the bound. Raises InputError for numbers that break the proof.
    """

    shape: Shape
    lam: Tensor
    A: Tensor
    B: Tensor
    padding: Padding
    epsilon: float
    ends: Ends | None = None
    kind = "convolutional"

    def __post_init__(self) -> None:
        c = self.shape[0]
        if self.lam.dim() != 3 or any(s not in (1, n) for s, n in zip(self.lam.shape, self.shape, strict=True)):
            raise InputError(f"lam must have shape {self.shape}, or 1 in places, got {tuple(self.lam.shape)}")
        kernels = {"A": self.A, "B": self.B} | ({} if self.ends is None else {"U": self.ends.input.kernel})
        for name, kernel in kernels.items():
            if kernel.dim() != 4 or kernel.shape[2] != kernel.shape[3] or kernel.shape[3] % 2 == 0:
                raise InputError(f"{name} must be a kernel of odd size, (out, in, k, k), got {tuple(kernel.shape)}")
        if self.A.shape[1] != c or self.B.shape[:2] != (c, c):
            raise InputError(f"A and B must act on {c} channels, got {tuple(self.A.shape)} and {tuple(self.B.shape)}")
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise InputError(f"epsilon must be positive, got {self.epsilon}")
        if self.ends is not None:
            if not (self.ends.gamma > 0 and math.isfinite(self.ends.gamma)):
                raise InputError(f"gamma, the bound on the slope, must be positive, got {self.ends.gamma}")
            if self.ends.head.in_size != self.in_size or self.ends.input.kernel.shape[0] != c:
                raise InputError("the input layer and the output map are not for the hidden images of this W")
        self.padding.of(self.radius).check(*self.shape[1:])

    @property
    def in_size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def out_size(self) -> int:
        return self.in_size

    @property
    def radius(self) -> int:
        """The composed kernel reaches this far: its size is 2 radius + 1."""
        sizes = [self.A.shape[-1] - 1, self.B.shape[-1] // 2]
        return max(sizes if self.ends is None else [*sizes, self.ends.input.kernel.shape[-1] - 1])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        own = (self.lam, self.A, self.B)
        return own if self.ends is None else (*own, self.ends.input.kernel, *self.ends.head.tensors)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        lam, A, B, *rest = tensors
        ends = self.ends
        if ends is not None:
            ends = replace(ends, input=replace(ends.input, kernel=rest[0]), head=ends.head.rebuild(tuple(rest[1:])))
        return replace(self, lam=lam, A=A, B=B, ends=ends)

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Operator:
        moved = self.rebuild(tuple(t.to(device=device, dtype=dtype) for t in self.tensors))
        assert isinstance(moved, Recurrence)
        ends = moved.ends
        return moved if ends is None else replace(moved, ends=replace(ends, head=ends.head.to(dtype, device)))

    @cached_property
    def psi(self) -> Tensor:
        """Ψ, in the shape of ``lam``."""
        return 1 / self.lam

    @property
    def multipliers(self) -> Tensor:
        """Λ, one number per neuron: (n,)."""
        return self.lam.expand(self.shape).flatten()

    @property
    def uneven(self) -> bool:
        """Whether ΛUUᵀΛ is not a convolution, because U is one and Λ varies over pixels."""
        return self.ends is not None and isinstance(self.ends.input, Plain) and self.lam.shape[1:] != (1, 1)

    @cached_property
    def kernel(self) -> Tensor:
        """The convolution in X: everything but CᵀC, and but K where that is none. (c, c, 2r + 1, 2r + 1)."""
        eye = torch.eye(self.shape[0], dtype=self.lam.dtype, device=self.lam.device)
        terms = [gram_kernel(self.A), adjoint_kernel(self.B) - self.B, self.epsilon * eye[:, :, None, None]]
        if self.ends is not None and not self.uneven:
            terms.append(self.input_kernel)
        total = self.lam.new_zeros(*self.shape[:1] * 2, 2 * self.radius + 1, 2 * self.radius + 1)
        for term in terms:
            total = total + functional.pad(term, (self.radius - term.shape[-1] // 2,) * 4)
        return _without_subnormals(total)

    @cached_property
    def input_kernel(self) -> Tensor:
        """The kernel of K/(2γ), or where K is Λ V Vᵀ Λ with a Λ that varies over pixels, of V Vᵀ/(2γ)."""
        assert self.ends is not None
        kernel = co_gram_kernel(self.ends.input.kernel) / (2 * self.ends.gamma)
        if isinstance(self.ends.input, Weighted) or self.uneven:
            return _without_subnormals(kernel)
        lam = self.lam[:, 0, 0].expand(self.shape[0])
        return kernel * lam[:, None, None, None] * lam[None, :, None, None]

    @cached_property
    def _forward(self) -> Conv2d:
        return Conv2d(self.kernel, self.shape, self.padding.of(self.radius))

    @cached_property
    def _backward(self) -> Conv2d:
        return Conv2d(adjoint_kernel(self.kernel), self.shape, self.padding.of(self.radius))

    @cached_property
    def valid(self) -> Conv2d:
        """V of K = Λ V Vᵀ Λ, from larger images; for a plain input layer only."""
        assert self.ends is not None
        kernel = self.ends.input.kernel
        k = kernel.shape[-1]
        if isinstance(self.padding, Circular):
            return Conv2d(kernel, (kernel.shape[1], *self.shape[1:]), self.padding.of(k // 2))
        h, w = (size + k - 1 for size in self.shape[1:])
        return Conv2d(kernel, (kernel.shape[1], h, w), self.padding.of(0))

    def _rest(self, z: Tensor) -> Tensor | None:
        """The symmetric terms of X z that are no convolution."""
        total = self._read(z)
        if total is None or not self.uneven:
            return total
        term = Conv2d(self.input_kernel, self.shape, self.padding.of(self.input_kernel.shape[-1] // 2))
        lam = self.multipliers
        return total + lam * term.apply(lam * z)

    def _read(self, z: Tensor) -> Tensor | None:
        """The term of the output map, CᵀC z / 2γ."""
        if self.ends is None:
            return None
        return self.ends.head.adjoint(self.ends.head.apply(z)) / (2 * self.ends.gamma)

    def split(self, z: Tensor) -> Tensor:
        """X z = Λ (I - W) z for rows z (batch, n)."""
        rest, image = self._rest(z), self._forward.apply(z)
        return image if rest is None else image + rest

    def split_adjoint(self, y: Tensor) -> Tensor:
        """Xᵀ y."""
        rest, image = self._rest(y), self._backward.apply(y)
        return image if rest is None else image + rest

    def _scale(self, x: Tensor) -> Tensor:
        """Ψ x."""
        return (x.unflatten(-1, self.shape) * self.psi).flatten(1)

    def apply(self, x: Tensor) -> Tensor:
        return x - self._scale(self.split(x))

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        quick = x.dtype == torch.float64 and x.device.type == "cpu" and not torch.is_grad_enabled()
        split = self._split_on_torus(x) if quick else self.split(x)
        return torch.addcmul(x + offset, self.psi.expand(self.shape).flatten(), split, value=-1)

    def _split_on_torus(self, z: Tensor) -> Tensor:
        """X z again: several times faster than torch's float64 convolutions on a CPU, and as accurate for a solver.

        Proofs do not use it: its rounding is not that of a sum of products.
        """
        torus, blocks, uneven = self._on_torus
        _, h, w = self.shape
        own = torus.embed(z.unflatten(-1, self.shape))
        images = torus.multiply(blocks, own)[:h, :w]
        if uneven is not None:
            lam = self.lam.permute(1, 2, 0).unsqueeze(-1)
            own[:h, :w] *= lam
            images += lam * torus.multiply(uneven, own, out=own)[:h, :w]
        read, image = self._read(z), images.permute(3, 2, 0, 1).flatten(1)
        return image if read is None else image + read

    @cached_property
    def _on_torus(self) -> tuple[Torus, Tensor, Tensor | None]:
        torus = Torus(*self.torus_size, self.lam.dtype, self.lam.device)
        uneven = None
        if self.uneven:
            uneven = torus.blocks(symbol(self.input_kernel.detach(), torus.height, torus.width)[: torus.rows])
        return torus, torus.blocks(self.symbol), uneven

    def adjoint(self, y: Tensor) -> Tensor:
        return y - self.split_adjoint(self._scale(y))

    @cached_property
    def _norm_bound(self) -> float:
        total = self._forward.norm_bound()
        if self.ends is not None:
            total += self.ends.head.norm_bound() ** 2 / (2 * self.ends.gamma)
            if self.uneven:
                k = self.input_kernel.shape[-1]
                term = Conv2d(self.input_kernel, self.shape, self.padding.of(k // 2))
                total += term.norm_bound() * float(self.lam.detach().double().amax()) ** 2
        # The kernel is a sum of products computed in the network's own number format.
        rounded = 1 + 64 * self.A.numel() * torch.finfo(self.lam.dtype).eps
        return 1 + total * rounded / float(self.lam.detach().double().amin())

    def norm_bound(self) -> float:
        return self._norm_bound

    def largest(self, steps: int = 10) -> float:
        """A lower estimate of the largest eigenvalue of X's symmetric part, by power iteration in float32."""
        with torch.no_grad():
            quick = self.to(torch.float32, None)
            assert isinstance(quick, Recurrence)
            v = torch.randn(1, self.in_size, generator=torch.Generator().manual_seed(0)).to(self.lam.device)
            size = 0.0
            for _ in range(steps):
                v = 0.5 * (quick.split(v) + quick.split_adjoint(v)) / v.norm()
                size = float(v.norm())
            return size

    @property
    def torus_size(self) -> tuple[int, int]:
        """The smallest torus of which the convolution in X is a part (mathematics 6)."""
        grow = 0 if isinstance(self.padding, Circular) else self.radius
        return self.shape[1] + grow, self.shape[2] + grow

    @cached_property
    def symbol(self) -> Tensor:
        """The convolution in X at the frequencies of its torus: (rows, width, c, c), complex."""
        height, width = self.torus_size
        return symbol(self.kernel.detach(), height, width)[: height // 2 + 1]

    @cached_property
    def _spectrum(self) -> Spectrum:
        with torch.no_grad():
            own = self.symbol.flatten(0, 1)
            # Eigenvalues at every frequency would take seconds; ε is nearly always the smallest all the same.
            L, norm = gram_bound(0.5 * (own + own.mH), 4), gram_bound(own, 4)
            extra = 0.0
            if self.ends is not None:
                head = self.ends.head
                eye = torch.eye(head.out_size, dtype=self.lam.dtype, device=self.lam.device)
                squares = head.apply(head.adjoint(eye))
                extra = float(torch.linalg.eigvalsh(0.5 * (squares + squares.mT))[-1]) / (2 * self.ends.gamma)
                if self.uneven:
                    term = symbol(self.input_kernel.detach(), *self.torus_size).flatten(0, 1)
                    extra += gram_bound(term, 5) * float(self.lam.amax()) ** 2
            return Spectrum(self.multipliers.detach(), self.epsilon, L + extra, norm + extra)

    def spectrum(self) -> Spectrum:
        return self._spectrum


def _without_subnormals(kernel: Tensor) -> Tensor:
    """The kernel with zeros for float32's subnormal numbers, which products of small weights are; gradients stay.

    They change nothing, and a few thousand of them make a convolution twenty times slower. Proofs are in float64.
    """
    if kernel.dtype != torch.float32:
        return kernel
    size = kernel.detach().abs()
    subnormal = (size > 0) & (size < torch.finfo(torch.float32).tiny)
    return kernel - (kernel.detach() * subnormal) if bool(subnormal.any()) else kernel
