"""The metric in which the equation is strongly monotone, and the two numbers that give every step size.

With Λ positive and H = Λ^½ (I - W) Λ^-½ (mathematics 1.1), μ and L are the extreme eigenvalues of the
symmetric part of H. μ > 0 says that there is exactly one equilibrium; the iterations contain no Λ, but their
best step sizes follow from μ, L and ‖H‖.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import IllPosedError
from equilip.operators import Operator, Spectrum


@dataclass(frozen=True, eq=False)
class Metric:
    """Λ = diag(lam), with μ ‖v‖² <= vᵀ H v <= L ‖v‖² and ‖H‖ <= norm, as computed (not proven).

    ``own``: the same of Λ (I - W), where W knows it by construction.
    """

    lam: Tensor
    mu: float
    L: float
    norm: float
    own: Spectrum | None = None


def measure(W: Operator, lam: Tensor) -> Metric:
    """The metric that the multipliers lam (n,) give; its μ may come out negative, which proves nothing."""
    with torch.no_grad():
        root = lam.sqrt()
        H = W.dense() * (-root[:, None] / root)
        H.diagonal().add_(1.0)
        if not bool(H.isfinite().all()):  # a lam of zero, below zero, NaN, or too uneven for the number format
            return Metric(lam, -math.inf, math.inf, math.inf)
        eigenvalues = torch.linalg.eigvalsh(0.5 * (H + H.mT))
        norm = torch.linalg.matrix_norm(H)
        mu, L, frobenius = torch.stack([eigenvalues[0], eigenvalues[-1], norm]).tolist()
    return Metric(lam, mu, L, frobenius)


def constructed(W: Operator) -> Metric | None:
    """The metric that W knows by construction; None where it knows none."""
    own = W.spectrum()
    if own is None:
        return None
    smallest, largest = float(own.lam.amin()), float(own.lam.amax())
    return Metric(own.lam, own.mu / largest, own.L / smallest, own.norm / smallest, own)


def require(metric: Metric | None) -> Metric:
    """The metric itself; IllPosedError where there is none or its μ is not positive."""
    if metric is None or not metric.mu > 0:
        raise IllPosedError(
            "no multipliers were found that prove that this W has exactly one equilibrium for every input; "
            "use a parametrised module (nn.LBEN, nn.MonotoneNetwork), or solve anyway with "
            "require_well_posed=False and look at Solution.converged"
        )
    return metric
