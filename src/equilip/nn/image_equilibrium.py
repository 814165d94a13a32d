"""What equilibrium networks of images share: images or flattened ones go in, and the twin for serving has kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.frozen import Frozen
from equilip.nn.module import EquilibriumModule
from equilip.operators import Shape


class ImageEquilibrium(EquilibriumModule):
    """An equilibrium network for images of ``shape`` (c, h, w)."""

    shape: Shape

    def forward(self, x: Tensor) -> Tensor:
        """The output: images (..., c, h, w), or flattened (..., in_features), raw -> (..., out_features)."""
        if x.shape[-3:] == self.shape and x.dim() >= 3:
            x = x.flatten(-3)
        return super().forward(x)

    def freeze(self) -> Frozen:  # type: ignore[override]
        """The explicit twin: a module that holds the realised kernels, for serving."""
        with torch.no_grad():
            return Frozen(self.form().detach(), settings=self.settings).eval()


def sized(tensor: Tensor, size: Tensor) -> Tensor:
    """The tensor with this Frobenius norm; zero stays zero."""
    norm = torch.linalg.vector_norm(tensor)
    return tensor * (size / norm.clamp(min=torch.finfo(tensor.dtype).tiny))
