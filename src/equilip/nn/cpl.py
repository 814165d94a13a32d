"""Convex potential layers (mathematics 4.1; Meunier and others, 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.layer import PotentialLayer
from equilip.norms import norm_bound


class CPL(PotentialLayer):
    """x - (2/‖W‖²) Wᵀσ(W x + b), where ‖W‖ is bounded from above, so that the step is never too long.

    The published code takes ‖W‖ from power iteration, which comes from below: after one step of it, slopes of 2.4 were
    found (mathematics 4.1). Here the bound is proved, and its gradient is part of the layer's.
    """

    def metric(self) -> Tensor:
        norm = norm_bound(self.weight)
        own = torch.where(norm > 0, norm, torch.ones_like(norm)).square() * (1 + 2 * torch.finfo(norm.dtype).eps)
        return own.expand(self.hidden_features)
