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
        """(..., in_features), or images (..., c, h, w) of as many numbers."""
        mean, std, image = self.mean, self.std, x.shape[-3:]
        if x.dim() >= 3 and x.shape[-1:] != mean.shape and image.numel() == mean.shape[0]:
            mean, std = mean.view(image), std.view(image)
        return (x - mean) / std
