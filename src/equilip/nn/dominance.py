"""Diagonal matrices above a Gram matrix, whatever rounding does (mathematics 4.2, 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.operators.gram_bound import autocorrelation
from equilip.rounding import UNDERFLOW, gamma


def dominating(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """T (h,) with diag(T) - R Rᵀ positive semidefinite for the stored numbers of R = ``rows`` (h, d); T > 0.

    T_i = Σ_j |R Rᵀ|_ij q_j / q_i, so that Q⁻¹ (diag(T) - R Rᵀ) Q is diagonally dominant, for any ``weights`` q (h,) > 0
    of moderate ratio (1 where absent). Computed in float64; what rounding may have taken from an entry, at most
    γ_d ‖R_i‖ ‖R_j‖, is added to it, which only enlarges T. A row of zeros does not meet the others, so any T_i serves:
    it gets 1, and no division by zero.
    """
    R = rows.double()
    return _dominating(rows, (R @ R.mT).abs(), 1, weights)


def dominating_channels(kernel: Tensor, weights: Tensor | None = None) -> Tensor:
    """T (m,) as above for the rows of a convolution with ``kernel`` (m, c, k, l): one T for all rows of a channel.

    T_i = Σ_j Σ_d |Σ_a K_i[a] K_j[a + d]| q_j / q_i. That is a sum over the rows of V Vᵀ, V the convolution without
    padding of a larger image, of which the one with zero padding is a part: V Vᵀ >= W Wᵀ. Circular convolutions have
    entries that are sums of these; striding leaves out rows. Only circular padding that repeats pixels needs more, that
    many times as much.
    """
    return _dominating(kernel, autocorrelation(kernel.double()).abs().sum((2, 3)), _shifts(kernel), weights)


def _shifts(kernel: Tensor) -> int:
    return (2 * kernel.shape[2] - 1) * (2 * kernel.shape[3] - 1)


def _dominating(rows: Tensor, gram: Tensor, shifts: int, weights: Tensor | None) -> Tensor:
    """T from the sums ``gram`` (h, h) of ``shifts`` absolute products each of ``rows`` (h, ...), before rounding."""
    R = rows.double().flatten(1)
    d = R.shape[1]
    q = torch.ones_like(R[:, 0]) if weights is None else weights.double()
    square = R.square().sum(1)
    norms = (square + UNDERFLOW).sqrt()
    lost = shifts * (gamma(d + 16) * norms[:, None] * norms + d * UNDERFLOW)
    T = ((gram + lost) @ q) / q * (1.0 + gamma(4 * len(R) + shifts + 16))
    T = torch.where(R.detach().count_nonzero(dim=1) > 0, T, torch.ones_like(T))
    if rows.dtype == torch.float64:
        return T
    info = torch.finfo(rows.dtype)
    return T.clamp(min=info.tiny).to(rows.dtype) * (1 + 2 * info.eps)
