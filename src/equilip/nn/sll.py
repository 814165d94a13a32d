"""SDP-based Lipschitz layers (mathematics 4.2; Araujo and others, 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.nn.dominance import dominating
from equilip.nn.layer import PotentialLayer

#: Ratios of q beyond e^±40 would only leave the range of numbers.
LARGEST = 20.0


class SLL(PotentialLayer):
    """x - 2 Wᵀ T⁻¹ σ(W x + b) with T_ii = Σ_j |W Wᵀ|_ij q_j / q_i, q = exp θ.

    Parameters beside those of the potential layer: log_q (hidden,), θ, used within ±20. q_j stands on the axis that is
    summed over: in the published convolution q and 1/q cancel. Nothing is added to a denominator, only ever to T, and
    a row of zeros is a neuron without effect, not a division by zero.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int | None = None,
        *,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features, hidden_features, activation=activation, device=device, dtype=dtype, generator=generator
        )
        draw = torch.empty_like(self.bias).normal_(generator=generator)
        self.log_q = torch.nn.Parameter(draw)

    def metric(self) -> Tensor:
        return dominating(self.weight, self.log_q.double().clamp(-LARGEST, LARGEST).exp())
