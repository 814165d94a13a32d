"""Sandwich layers (mathematics 4.6; Wang and Manchester, 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.form import Form
from equilip.nn.cayley import orthonormal
from equilip.nn.guarantee import Guarantee
from equilip.nn.layer import PROVED_STEPS, AffineLayer, LipschitzLayer
from equilip.nn.module import check_sizes, uniform
from equilip.norms import norm_bound
from equilip.rounding import UNIT_ROUNDOFF

#: ψ beyond ±20 would only leave the range of numbers.
LARGEST = 20.0


class Sandwich(LipschitzLayer):
    """y = √2 AᵀΨ σ(√2 Ψ⁻¹B x + b) with AAᵀ + BBᵀ = 1 and Ψ = diag(exp ψ).

    A (out, out) and B (out, in) come from Cayley's transform of one matrix; with Λ = Ψ² the LMI of mathematics 1.2 at
    γ = 1 holds with equality. Parameters: weight (out + in, out), length (), psi (out,), used within ±20, and bias
    (out,), all there from the start. Raises InputError for sizes that are not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=in_features, device=device, dtype=dtype, generator=generator)

        self.weight = draw(out_features + in_features, out_features)
        self.length = torch.nn.Parameter(self.weight.detach().norm())
        self.psi = torch.nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype))
        self.bias = draw(out_features)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """√2 Ψ⁻¹B (out, in), √2 AᵀΨ (out, out), and Ψ² (out,)."""
        Q = orthonormal(self.weight, self.length).mT
        A, B = Q[:, : self.out_features], Q[:, self.out_features :]
        scale = self.psi.clamp(-LARGEST, LARGEST).exp()
        return math.sqrt(2) * B / scale[:, None], math.sqrt(2) * A.mT * scale, scale.square()

    def forward(self, x: Tensor) -> Tensor:
        U, C, _ = self.matrices()
        z = self.activation.value(torch.nn.functional.linear(x, U, self.bias))
        return torch.nn.functional.linear(z, C)

    def form(self) -> Form:
        U, C, lam = self.matrices()
        none = U.new_zeros
        W = none(self.out_features, self.out_features)
        return forms.dense(W, U, self.bias, C, none(self.out_features), activation=self.activation, lam=lam)

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, (2 * self.psi.detach().clamp(-LARGEST, LARGEST)).exp())

    def proved_bound(self) -> float:
        with torch.no_grad():
            U, C, lam = (tensor.double() for tensor in self.matrices())
            root = lam.sqrt()
            return half_square(torch.cat([C / root, (U * root[:, None]).mT]))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, activation={self.activation.kind}"


def half_square(both: Tensor) -> float:
    """½ ‖M‖² for M = [C Λ^(-1/2); Uᵀ Λ^(1/2)], a proved bound on the slope of C σ(U x + b), from M as computed.

    2Λ - (CᵀC + ΛUUᵀΛ)/γ >= 0 says just that (mathematics 1.2). Any positive numbers serve as the root of Λ, so only the
    rounding of M's own entries counts, at most two units each.
    """
    rounded = 4 * UNIT_ROUNDOFF * float(both.norm())
    return 0.5 * (float(norm_bound(both, PROVED_STEPS)) + rounded) ** 2 * (1 + 8 * UNIT_ROUNDOFF)


class SandwichLinear(AffineLayer):
    """y = B x + b with AAᵀ + BBᵀ = 1 for some A, so ‖B‖ <= 1: the last layer of a network of sandwiches.

    Parameters: weight (out + in, out), length (), bias (out,).
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
        self.weight = uniform(
            out_features + in_features, out_features,
            fan_in=in_features, device=device, dtype=dtype, generator=generator,
        )  # fmt: skip
        self.length = torch.nn.Parameter(self.weight.detach().norm())

    def matrix(self) -> Tensor:
        return orthonormal(self.weight, self.length)[self.out_features :].mT
