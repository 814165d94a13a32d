"""Diagonal matrices above a Gram matrix, whatever rounding does (mathematics 4.2, 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.rounding import UNDERFLOW, gamma


def dominating(rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """T (h,) with diag(T) - R Rᵀ positive semidefinite for the stored numbers of R = ``rows`` (h, d); T > 0.

    T_i = Σ_j |R Rᵀ|_ij q_j / q_i, so that Q⁻¹ (diag(T) - R Rᵀ) Q is diagonally dominant, for any ``weights`` q (h,) > 0
    of moderate ratio (1 where absent). Computed in float64; what rounding may have taken from an entry, at most
    γ_d ‖R_i‖ ‖R_j‖, is added to it, which only enlarges T. A row of zeros does not meet the others, so any T_i serves:
    it gets 1, and no division by zero.
    """
    R = rows.double()
    d = R.shape[1]
    q = torch.ones_like(R[:, 0]) if weights is None else weights.double()
    square = R.square().sum(1)
    norms = (square + UNDERFLOW).sqrt()
    lost = gamma(d + 16) * norms[:, None] * norms + d * UNDERFLOW
    T = (((R @ R.mT).abs() + lost) @ q) / q * (1.0 + gamma(4 * len(R) + 16))
    T = torch.where(rows.detach().count_nonzero(dim=1) > 0, T, torch.ones_like(T))
    if rows.dtype == torch.float64:
        return T
    info = torch.finfo(rows.dtype)
    return T.clamp(min=info.tiny).to(rows.dtype) * (1 + 2 * info.eps)
