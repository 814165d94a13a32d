"""The W of a multi-tier monotone network, lower block triangular with its proof built in (mathematics 2.4).

The hidden images come in tiers, each half as tall and wide as the one before. With convolutions A_i of tier i, and N_i,
a convolution with kernel K_i that is read at every second pixel, from tier i into the images of A_{i+1},

    W = I - X,    X_ii = ε I + A_iᵀA_i + K_iᵀK_i + B_iᵀ - B_i,    X_{i+1,i} = 2 A_{i+1}ᵀN_i,

and nothing else. A is the block bidiagonal map with A_i on its diagonal and N_i below: the symmetric part of X is
ε I + AᵀA and, in tier i, K_iᵀK_i - N_iᵀN_i, which is not negative because the pixels that N_i reads are some of those
that K_i makes. So vᵀXv >= ε ‖v‖² for any kernels and any image size. (The published networks have N_iᵀN_i in X_ii,
which is no convolution; with K_iᵀK_i every tier is a :class:`Recurrence` of its own, and is solved like one.)

Kernels may be of any odd size, one for all. With zero padding A_i and K_i are full convolutions (every overlap with the
image counts), and N_i reads every second pixel of K_i from the same corner that A_{i+1} starts at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators.convolution import Circular, Conv2d, Padding, Shape
from equilip.operators.operator import Operator, Spectrum, WithProof
from equilip.operators.recurrence import Recurrence


def tier_shapes(image: Shape, channels: tuple[int, ...]) -> tuple[Shape, ...]:
    """The hidden images of every tier for an input ``image`` (c, h, w): half as tall and wide each time, rounded up."""
    _, h, w = image
    found = []
    for c in channels:
        found.append((c, h, w))
        h, w = -(-h // 2), -(-w // 2)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Link:
    """From one tier to the next, X_{i+1,i} = 2 A_{i+1}ᵀN_i: ``down`` is N_i and ``into`` A_{i+1}."""

    down: Conv2d
    into: Conv2d

    def apply(self, z: Tensor) -> Tensor:
        return 2 * self.into.adjoint(self.down.apply(z))

    def adjoint(self, y: Tensor) -> Tensor:
        return 2 * self.down.adjoint(self.into.apply(y))

    def norm_bound(self) -> float:
        return 2 * self.into.norm_bound() * self.down.norm_bound()


@dataclass(frozen=True, eq=False)
class Tiers(WithProof):
    """W of the module's text, for hidden images of ``shapes``, each (c, h, w).

    A, B: of every tier, (c, c, k, k). K: of every tier but the last, (c', c, k, k) with the next tier's c'. padding:
    ``Zeros(0)`` or ``Circular(0)``, for the kind alone. epsilon: positive, the constant of strong
    monotonicity. Raises InputError for what does not fit together.
    """

    shapes: tuple[Shape, ...]
    A: tuple[Tensor, ...]
    B: tuple[Tensor, ...]
    K: tuple[Tensor, ...]
    padding: Padding
    epsilon: float
    kind = "tiers"

    def __post_init__(self) -> None:
        channels = [shape[0] for shape in self.shapes]
        if len(self.shapes) < 2 or self.shapes != tier_shapes(self.shapes[0], tuple(channels)):
            raise InputError(f"tiers are two or more, each half as tall and wide as the one before; got {self.shapes}")
        k = self.A[0].shape[-1] if self.A else 0
        square = [(c, c, k, k) for c in channels]
        steps = [(after, before, k, k) for before, after in pairwise(channels)]
        for name, kernels, expected in (("A", self.A, square), ("B", self.B, square), ("K", self.K, steps)):
            if [tuple(kernel.shape) for kernel in kernels] != expected:
                raise InputError(f"the kernels {name} have shapes {[tuple(t.shape) for t in kernels]}, not {expected}")
        if isinstance(self.padding, Circular) and k - 1 > min(self.shapes[-1][1:]):
            raise InputError(
                f"kernels of {k} pixels wrap around the last tier's images of {self.shapes[-1][1:]} more than once; "
                "use fewer tiers, smaller kernels or zero padding"
            )
        assert self.parts  # what is wrong with a tier is said now

    @cached_property
    def parts(self) -> tuple[Recurrence, ...]:
        """W_ii, tier by tier: A_iᵀA_i + K_iᵀK_i is the square of both convolutions, one above the other."""
        found = []
        for i, (shape, A, B) in enumerate(zip(self.shapes, self.A, self.B, strict=True)):
            own = A if i == len(self.K) else torch.cat([A, self.K[i]])
            found.append(Recurrence(shape, torch.ones_like(A[:1, :1, 0, :1]), own, B, self.padding, self.epsilon))
        return tuple(found)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        found = []
        for K, A, (before, after) in zip(self.K, self.A[1:], pairwise(self.shapes), strict=True):
            half = K.shape[-1] // 2
            # A_{i+1} starts half a kernel before its image, where N_i has to start as well, at twice the distance.
            into, down = (half, half) if isinstance(self.padding, Circular) else (2 * half, 3 * half)
            link = Link(Conv2d(K, before, self.padding.of(down), 2), Conv2d(A, after, self.padding.of(into)))
            assert link.down.out_shape == link.into.out_shape
            found.append(link)
        return tuple(found)

    @property
    def sizes(self) -> list[int]:
        """How many neurons the tiers have."""
        return [c * h * w for c, h, w in self.shapes]

    @property
    def in_size(self) -> int:
        return sum(self.sizes)

    @property
    def out_size(self) -> int:
        return self.in_size

    @property
    def multipliers(self) -> Tensor:
        """Λ = 1, (n,)."""
        return torch.ones(self.in_size, dtype=self.A[0].dtype, device=self.A[0].device)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.A, *self.B, *self.K)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        t = len(self.shapes)
        return replace(self, A=tensors[:t], B=tensors[t : 2 * t], K=tensors[2 * t :])

    def split(self, z: Tensor) -> Tensor:
        """X z for rows z (batch, n)."""
        images = z.split(self.sizes, dim=-1)
        found = [part.split(image) for part, image in zip(self.parts, images, strict=True)]
        for i, link in enumerate(self.links):
            found[i + 1] = found[i + 1] + link.apply(images[i])
        return torch.cat(found, dim=-1)

    def split_adjoint(self, y: Tensor) -> Tensor:
        """Xᵀ y."""
        images = y.split(self.sizes, dim=-1)
        found = [part.split_adjoint(image) for part, image in zip(self.parts, images, strict=True)]
        for i, link in enumerate(self.links):
            found[i] = found[i] + link.adjoint(images[i + 1])
        return torch.cat(found, dim=-1)

    def apply(self, x: Tensor) -> Tensor:
        return x - self.split(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return y - self.split_adjoint(y)

    def plus(self, x: Tensor, offset: Tensor) -> Tensor:
        images, found = x.split(self.sizes, dim=-1), []
        for i, (part, rest) in enumerate(zip(self.parts, offset.split(self.sizes, dim=-1), strict=True)):
            found.append(part.plus(images[i], rest if i == 0 else rest - self.links[i - 1].apply(images[i - 1])))
        return torch.cat(found, dim=-1)

    @cached_property
    def _norm_bound(self) -> float:
        # Blocks on the diagonal and next to it: each kind has the norm of its largest.
        own, between = (max(op.norm_bound() for op in blocks) for blocks in (self.parts, self.links))
        return (own + between) * (1 + 4 * torch.finfo(torch.float64).eps)

    def norm_bound(self) -> float:
        return self._norm_bound

    @cached_property
    def _spectrum(self) -> Spectrum:
        own = [part.spectrum() for part in self.parts]
        between = max(link.norm_bound() for link in self.links)
        # The symmetric part has half of every link on both sides of its diagonal.
        L, norm = max(part.L for part in own) + between, max(part.norm for part in own) + between
        return Spectrum(self.multipliers, self.epsilon, L, norm)

    def spectrum(self) -> Spectrum:
        return self._spectrum
