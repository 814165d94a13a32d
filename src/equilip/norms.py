"""Spectral norms of matrices: proved from above, found from below (mathematics 6).

With G₀ = A and G_{k+1} = G_kᵀ G_k, ‖A‖^(2^k) = ‖G_k‖ <= ‖G_k‖_F: Gram iteration bounds the norm from above at every k,
and the excess, a factor of at most rank^(1/2^(k+1)), vanishes as fast as its exponent grows. Power iteration comes
from below, and no bound may rest on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.rounding import UNDERFLOW, gamma

#: Enough for an excess below 1 % of any matrix of rank 512, and far less where the singular values differ.
STEPS = 8


def norm_bound(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """An upper bound on ‖A‖₂ of each of the ``matrices`` (..., m, n), (...), in their real dtype and on their device.

    True for the stored numbers: every product's rounding is bounded and carried through the iteration, in float64
    whatever the dtype, and the result is rounded up. Differentiable; real or complex. At most a factor of
    min(m, n)^(1/2^(steps + 1)) above the norm, rounding (about m n 1e-16) apart. 0 for a matrix of zeros, not
    finite for one that is not.
    """
    if matrices.dim() < 2 or steps < 0:
        raise InputError(f"expected matrices (..., m, n) and steps >= 0, got {tuple(matrices.shape)}, {steps}")
    dtype = matrices.real.dtype
    if not matrices.shape[-2] * matrices.shape[-1]:
        return matrices.new_zeros(matrices.shape[:-2], dtype=dtype)
    if matrices.shape[-2] < matrices.shape[-1]:
        matrices = matrices.mT
    # A complex matrix X + iY is kept as [X; Y], whose Gram matrix is the real part of its own.
    A = torch.cat([matrices.real, matrices.imag], dim=-2) if matrices.is_complex() else matrices
    A = A.double()
    m, n = A.shape[-2:]
    # What one product may lose, relative to ‖G‖_F²; doubled, for the roundings in computing this very bound, and
    # again for the second part of a complex product.
    loss, absolute = (4 if matrices.is_complex() else 2) * gamma(m + 8), 8.0 * m * n * UNDERFLOW
    grown = 1.0 + 2.0 * gamma(m * n + 16)
    G, sizes, scales = A, [], []
    for _ in range(steps):
        scale, inverse = powers_of_two(G.detach().abs().amax(dim=(-2, -1)))
        G = G * inverse[..., None, None]
        scales.append(scale)
        sizes.append(G.square().sum(dim=(-2, -1)) * grown + absolute)
        G = _gram(G, paired=matrices.is_complex())
    scale, inverse = powers_of_two(G.detach().abs().amax(dim=(-2, -1)))
    square = (G * inverse[..., None, None]).square().sum(dim=(-2, -1))
    bound = (square * grown + absolute).sqrt() * grown * scale
    bound = unrolled(bound, [loss * size + absolute for size in sizes], scales, grown)
    bound = torch.where(A.detach().abs().amax(dim=(-2, -1)) == 0, torch.zeros_like(bound), bound)
    return rounded_up(bound, dtype)


def _gram(G: Tensor, *, paired: bool) -> Tensor:
    """GᵀG, or for G = [X; Y] the parts of (X + iY)ᴴ(X + iY), one above the other."""
    real = G.mT @ G
    if not paired:
        return real
    X, Y = G.tensor_split(2, dim=-2)
    return torch.cat([real, G.mT @ torch.cat([Y, -X], dim=-2)], dim=-2)


def norm_found(matrix: Tensor, steps: int = 50, *, generator: torch.Generator | None = None) -> float:
    """A lower estimate of ‖A‖₂ of a matrix (m, n) by power iteration: ‖A v‖ / ‖v‖ for the best v found, rounded down.

    Never above the norm, and never a bound: a start without a share in the largest direction does not find it.
    """
    if matrix.dim() != 2:
        raise InputError(f"expected a matrix, got a tensor of shape {tuple(matrix.shape)}")
    A = matrix.detach().to("cpu", torch.float64)
    largest = float(A.abs().max()) if A.numel() else 0.0
    if largest == 0.0:
        return 0.0
    A = A / largest
    v = torch.randn(A.shape[1], dtype=torch.float64, generator=generator)
    found = 0.0
    for _ in range(steps):
        v = v / v.norm().clamp(min=1e-300)
        image = A @ v
        found = max(found, float(image.norm() / v.norm().clamp(min=1e-300)))
        v = A.mT @ image
    return found * largest * max(0.0, 1.0 - 4.0 * gamma(sum(A.shape) + 16))


def unrolled(bound: Tensor, losses: list[Tensor], scales: list[Tensor], grown: float) -> Tensor:
    """A bound on ‖G₀‖ from one on ‖G_t‖, where G_{k+1} is (G_k / scale_k)ᴴ(G_k / scale_k) but for a loss_k.

    ‖G_k‖² = scale_k² ‖the exact product‖ <= scale_k² (‖G_{k+1}‖ + loss_k), from the last step back to the first.
    """
    for loss, scale in zip(reversed(losses), reversed(scales), strict=True):
        bound = (bound + loss).sqrt() * grown * scale
    return bound


def powers_of_two(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """2^e and 2^-e, exact, in float64, with ``sizes`` (...) just below 2^e: torch's own powers need not be exact."""
    exponent = torch.frexp(sizes).exponent.clamp(-1021, 1022)
    return _power_of_two(exponent), _power_of_two(-exponent)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def rounded_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in ``dtype``, not below it."""
    return value if dtype == torch.float64 else value.to(dtype) * (1 + 2 * torch.finfo(dtype).eps)
