"""The textbook iteration for convolutional networks: forward-backward splitting, as published.

    z ← relu(z - α (z - W z - bias)),    W z = z - Ψ (m z + g AᵀA z - h B z + h Bᵀ z)

on images with a ring of one pixel, which the activation keeps at zero. As published: every application of W is four
circular convolutions with their padding and cropping; the adjoint iterates v ← J (v - α ((I - Wᵀ) v - g)), with the
same step; the step α comes from a search. Written anew from the mathematics. It is stopped on the residual of every
sample, which its own rule does not do, so that both sides answer the same question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from equilip import nn
from equilip.operators import Recurrence


class TextbookConvolution:
    """An LBENConv of 3 x 3 kernels without a bound, zero padding and a full metric, iterated as published."""

    def __init__(self, model: nn.LBENConv, alpha: float) -> None:
        W = model.form().detach().W
        assert isinstance(W, Recurrence)
        self.A, self.B = W.A, W.B
        self.psi = functional.pad(W.psi, (1, 1, 1, 1), value=1.0)
        self.m, self.alpha = W.epsilon, alpha
        ring = torch.ones_like(self.psi)
        self.inside = functional.pad(ring[:, 1:-1, 1:-1], (1, 1, 1, 1))

    def _convolve(self, z: Tensor, kernel: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(z, (1, 1, 1, 1), mode="circular"), kernel)

    def _back(self, y: Tensor, kernel: Tensor) -> Tensor:
        grown = functional.conv_transpose2d(functional.pad(y, (1, 1, 1, 1), mode="circular"), kernel)
        return grown[:, :, 2:-2, 2:-2]

    def multiply(self, z: Tensor) -> Tensor:
        """W z for images (batch, c, h + 2, w + 2)."""
        inner = self.m * z + self._back(self._convolve(z, self.A), self.A)
        return z - self.psi * (inner - self._convolve(z, self.B) + self._back(z, self.B))

    def multiply_transposed(self, y: Tensor) -> Tensor:
        """Wᵀ y."""
        scaled = self.psi * y
        inner = self.m * scaled + self._back(self._convolve(scaled, self.A), self.A)
        return y - (inner + self._convolve(scaled, self.B) - self._back(scaled, self.B))

    def solve(self, bias: Tensor, iterations: int) -> Tensor:
        """z after so many iterations, for bias (batch, c, h + 2, w + 2)."""
        z = torch.zeros_like(bias)
        for _ in range(iterations):
            z = ((1 - self.alpha) * z + self.alpha * (self.multiply(z) + bias)).relu() * self.inside
        return z

    def adjoint(self, j: Tensor, g: Tensor, iterations: int) -> Tensor:
        """v = j (Wᵀ v + g) after so many iterations."""
        v = torch.zeros_like(g)
        for _ in range(iterations):
            v = j * ((1 - self.alpha) * v + self.alpha * (self.multiply_transposed(v) + g))
        return v

    def residual(self, z: Tensor, bias: Tensor) -> float:
        """The largest relative residual of a batch."""
        error = (self.multiply(z) + bias).relu() * self.inside - z
        return float((error.flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)).amax())

    def enough(self, bias: Tensor, tolerance: float, limit: int = 2000) -> int:
        """After how many iterations every sample has this residual, within 4."""
        z = torch.zeros_like(bias)
        for count in range(1, limit + 1):
            z = ((1 - self.alpha) * z + self.alpha * (self.multiply(z) + bias)).relu() * self.inside
            if count % 4 == 0 and self.residual(z, bias) <= tolerance:
                return count
        raise AssertionError(f"the textbook iteration needs more than {limit} iterations")
