"""Orthogonal matrices by Cayley's transform (mathematics 4.4; Trockman and Kolter, 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.layer import AffineLayer

#: The longest X that is used: beyond it nothing is gained but the condition of 1 + Z, at most its square.
_LONGEST = 1e3


def orthonormal(X: Tensor, length: Tensor) -> Tensor:
    """Q (m, n), m >= n, with QᵀQ = 1, from any X (m, n) and the length () that X is brought to.

    Computed in float64. X = 0 gives [1; 0].
    """
    return transform(brought_to(X, length)).to(X.dtype)


def brought_to(X: Tensor, length: Tensor) -> Tensor:
    """X in float64 with this Frobenius norm, within ±1000; zero stays zero."""
    wide = X.double()
    # Scaled first, so that no square leaves the range of numbers.
    largest = wide.detach().abs().max()
    wide = wide / torch.where(largest > 0, largest, torch.ones_like(largest))
    square = wide.square().sum()
    norm = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return wide * (length.double().clamp(-_LONGEST, _LONGEST) / norm)


def transform(X: Tensor) -> Tensor:
    """Q (..., m, n), m >= n, with QᴴQ = 1, from any real or complex X (..., m, n).

    With X = [A; B], A square: Z = A - Aᴴ + BᴴB, Q = [(1 + Z)⁻¹ (1 - Z); -2 B (1 + Z)⁻¹]. The Hermitian part of 1 + Z
    is at least 1, so it is never singular.
    """
    n = X.shape[-1]
    A, B = X[..., :n, :], X[..., n:, :]
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    Z = A - A.mH + B.mH @ B
    # Both pieces are multiples of (1 + Z)⁻¹, which commutes with 1 - Z.
    inverse = torch.linalg.inv(eye + Z)
    return torch.cat([(eye - Z) @ inverse, -2 * B @ inverse], dim=-2)


class Cayley(AffineLayer):
    """y = Q x + b with orthonormal rows (fewer outputs than inputs) or columns, QQᵀ = 1 or QᵀQ = 1.

    Parameters beside those of the affine layer: length (), to which the weight is brought (its own norm at first), in
    use within ±1000. Every orthogonal matrix without the eigenvalue -1 is reached as it grows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype, generator=generator)
        self.length = torch.nn.Parameter(self.weight.detach().norm())

    def matrix(self) -> Tensor:
        tall = self.out_features >= self.in_features
        Q = orthonormal(self.weight if tall else self.weight.mT, self.length)
        return Q if tall else Q.mT
