"""The input layer ξ = (x - mean) / std, inside the network and stored with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equilip.form import Standardisation


class Standardise(torch.nn.Module):
    """(x - mean) / std with fixed mean and std of shape (in_features,) (buffers, in the state_dict).

    Inside a network it makes every radius and perturbation one of the raw input; bounds with respect to ξ grow
    by 1 / min(std) in raw units.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Tensor | Sequence[float],
        std: Tensor | Sequence[float],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer("mean", torch.as_tensor(mean).detach().to(device=device, dtype=dtype, copy=True))
        self.register_buffer("std", torch.as_tensor(std).detach().to(device=device, dtype=dtype, copy=True))
        Standardisation(self.mean, self.std)  # raises InputError where they make no sense

    def standardisation(self) -> Standardisation:
        """The same as part of a form."""
        return Standardisation(self.mean, self.std)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
