"""Matrices divided by a proved bound on their norm."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.layer import AffineLayer
from equilip.norms import norm_bound


class Spectral(AffineLayer):
    """y = (W / ‖W‖) x + b, where ‖W‖ is bounded from above (:func:`equilip.norms.norm_bound`).

    ``torch.nn.utils.spectral_norm`` divides by the outcome of power iteration, which comes from below.
    """

    def matrix(self) -> Tensor:
        W = self.weight
        # Every quotient is rounded: by at most √rank eps in the norm of them all.
        room = 1 + 2 * torch.finfo(W.dtype).eps * min(W.shape) ** 0.5
        bound = norm_bound(W) * room
        return W / torch.where(bound > 0, bound, torch.ones_like(bound))
