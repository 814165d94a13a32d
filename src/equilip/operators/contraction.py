"""The W of a convolutional network that contracts in a weighted maximum norm (linf.md 6).

What its comparison matrix says is the same at every pixel but for border pixels, which read less: weights that are the
same at all pixels of a channel turn it into a matrix of channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators.convolution import Conv2d
from equilip.operators.operator import Operator, Spectrum


@dataclass(frozen=True, eq=False)
class Contraction(Conv2d):
    """A convolution of hidden images (c, h, w) with images of the same shape: kernel (c, c, k, k), k odd, stride 1.

    Raises InputError for other shapes. Whether it contracts is what :meth:`spectrum` says.
    """

    kind = "contraction"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out_shape != self.shape or self.stride != 1 or self.kernel.shape[2] % 2 == 0:
            raise InputError(
                f"W takes images of {self.shape} to images of the same shape by a kernel of odd size, "
                f"not by {tuple(self.kernel.shape)} to {self.out_shape}"
            )

    @property
    def centre(self) -> Tensor:
        """What every neuron reads of itself, (c,), differentiable: the diagonal of W, one number for each channel."""
        middle = self.kernel.shape[2] // 2
        return self.kernel[:, :, middle, middle].diagonal()

    def channels(self) -> tuple[Tensor, Tensor]:
        """The centre (c,), and the sums of absolute values of all other taps (c, c), in float64, not rounded."""
        kernel = self.kernel.detach().double()
        own = Contraction(kernel, self.shape, self.padding).centre
        middle = kernel.shape[2] // 2
        size = kernel.abs()
        size[:, :, middle, middle] -= torch.diag(own.abs())
        return own, size.sum(dim=(2, 3))

    def without_centre(self) -> Conv2d:
        """The same with zeros on its diagonal."""
        kernel = self.kernel.clone()
        middle = kernel.shape[2] // 2
        kernel[:, :, middle, middle] -= torch.diag(self.centre)
        return Conv2d(kernel, self.shape, self.padding)

    def spread(self, numbers: Tensor) -> Tensor:
        """Numbers of channels (..., c) as numbers of neurons (..., n)."""
        pixels = self.shape[1] * self.shape[2]
        return numbers[..., None].expand(*numbers.shape, pixels).flatten(-2)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return replace(self, kernel=tensors[0])

    def spectrum(self) -> Spectrum | None:
        """With (1 - M)x = 1 and (1 - M)ᵀy = 1 for the matrix M of channels, Λ = diag(y/x); None where one is not > 0.

        P = 2Λ - ΛM - MᵀΛ has P x = λ + 1, off its diagonal nothing positive, and so no eigenvalue below
        min (λ + 1)/x; that of W is larger still.
        """
        own, size = self.channels()
        M = size + torch.diag(own)
        eye = torch.eye(len(M), dtype=M.dtype, device=M.device)
        x, first = torch.linalg.solve_ex(eye - M, torch.ones_like(own))
        y, second = torch.linalg.solve_ex((eye - M).mT, torch.ones_like(own))
        if int(first) or int(second) or not bool((x > 0).all() and (y > 0).all()):
            return None
        lam = y / x
        if not bool(lam.isfinite().all()):
            return None
        absolute = lam[:, None] * (size + torch.diag((1 - own).abs()))
        rows, columns = absolute.sum(1), absolute.sum(0)
        mu = 0.5 * float(((lam + 1) / x).amin())
        norm = float(rows.amax() * columns.amax()) ** 0.5
        L = 0.5 * float((rows + columns).amax())
        return Spectrum(self.spread(lam).to(self.kernel.dtype), mu, L, norm)
