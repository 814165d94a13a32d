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
    """An upper bound on ‖A‖₂ of each of the ``matrices`` (..., m, n), (...), in their dtype and on their device.

    True for the stored numbers: every product's rounding is bounded and carried through the iteration, in float64
    whatever the dtype, and the result is rounded up. Differentiable. At most a factor of min(m, n)^(1/2^(steps + 1))
    above the norm, rounding (about m n 1e-16) apart. 0 for a matrix of zeros, not finite for one that is not.
    """
    if matrices.dim() < 2 or steps < 1:
        raise InputError(f"expected matrices (..., m, n) and at least one step, got {tuple(matrices.shape)}, {steps}")
    wide = matrices.double()
    A = wide if wide.shape[-2] >= wide.shape[-1] else wide.mT
    m, n = A.shape[-2:]
    if not m * n:
        return matrices.new_zeros(matrices.shape[:-2])
    # What one product may lose, relative to ‖G‖_F²; doubled, for the roundings in computing this very bound.
    loss, absolute = 2 * gamma(m + 8), 4.0 * m * n * UNDERFLOW
    grown = 1.0 + 2.0 * gamma(m * n + 16)
    G, sizes, scales = A, [], []
    for _ in range(steps):
        exponent = torch.frexp(G.detach().abs().amax(dim=(-2, -1))).exponent.clamp(-1021, 1022)
        G = G * _power_of_two(-exponent)[..., None, None]
        scales.append(_power_of_two(exponent))
        sizes.append(G.square().sum(dim=(-2, -1)) * grown + absolute)
        G = G.mT @ G
    # ‖G_k‖² = ‖G_kᵀ G_k‖ <= ‖the product as computed‖ + its rounding, from the last step back to A.
    bound = (G.square().sum(dim=(-2, -1)) * grown + absolute).sqrt() * grown
    for size, scale in zip(reversed(sizes), reversed(scales), strict=True):
        bound = (bound + loss * size + absolute).sqrt() * grown * scale
    bound = torch.where(A.detach().abs().amax(dim=(-2, -1)) == 0, torch.zeros_like(bound), bound)
    return _rounded_up(bound, matrices.dtype)


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


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, exactly: torch's own powers need not be."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _rounded_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in ``dtype``, not below it."""
    return value if dtype == torch.float64 else value.to(dtype) * (1 + 2 * torch.finfo(dtype).eps)
