"""Almost-orthogonal layers (mathematics 4.3; Prach and Lampert, 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.dominance import dominating
from equilip.nn.layer import AffineLayer


class AOL(AffineLayer):
    """y = W diag(t)^(-1/2) x + b with t_j = Σ_i |WᵀW|_ji: every column shrunk until the norm is at most 1.

    Columns of zeros stay what they are. What rounding could take is added to t, never taken from it.
    """

    def matrix(self) -> Tensor:
        W = self.weight
        # Every quotient is rounded: by at most √rank eps in the norm of them all.
        room = 1 + 2 * torch.finfo(W.dtype).eps * min(W.shape) ** 0.5
        return W / (dominating(W.mT).sqrt() * room)
