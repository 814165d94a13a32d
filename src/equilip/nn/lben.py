"""Lipschitz-bounded equilibrium networks: any parameters, slope at most gamma (mathematics 1.3, 1.6).

    T = VᵀV + ε I + Sᵀ - S + CᵀC/(2γ) + Λ U Uᵀ Λ/(2γ),    W = I - Ψ T,    Ψ = diag(exp ψ) = Λ⁻¹

so that 2Λ - ΛW - WᵀΛ - (CᵀC + ΛUUᵀΛ)/γ = 2 (VᵀV + ε I) is positive definite whatever V, S, U, C and ψ are.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.bounded import BoundedRule, bounded_matrix
from equilip.nn.gram import gram
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule, check_sizes, uniform
from equilip.nn.node import Rule
from equilip.solve import Settings


class LBEN(EquilibriumModule):
    """z = σ(W z + U ξ + b), y = C z + D ξ + c, with ‖y - y'‖₂ <= gamma ‖ξ - ξ'‖₂ for any parameters.

    gamma: the bound, with respect to the standardised input; None promises only that there is exactly one
        equilibrium for every input. learn_gamma: train log gamma, starting from this value.
    epsilon: the slack ε > 0 of the construction; at least 1e-3 is wise in float32.
    activation: any with slopes in [0, 1]. feedthrough: learn D too, inside the bound (‖D‖ < gamma).
    standardisation: the input layer, kept with the network. settings: how to solve.

    Parameters: V, S (n, n), psi (n,), U (n, p), b (n,), C (q, n), c (q,), where asked for log_gamma () and
    D_X, D_Y (d, d), D_Z (|q - p|, d), d = min(p, q).

    Raises InputError for sizes, gamma or epsilon that are not positive.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        gamma: float | None = None,
        *,
        epsilon: float = 1.0,
        activation: Activation | None = None,
        feedthrough: bool = False,
        learn_gamma: bool = False,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        if gamma is not None and not (gamma > 0 and math.isfinite(gamma)):
            raise InputError(f"gamma, the bound on the slope, must be positive, got {gamma}")
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise InputError(f"epsilon must be positive, got {epsilon}")
        if gamma is None and (feedthrough or learn_gamma):
            raise InputError("feedthrough and learn_gamma need a bound: give gamma")
        super().__init__(standardisation, settings)
        n, p, q = hidden_features, in_features, out_features
        self.in_features, self.hidden_features, self.out_features = p, n, q
        self.epsilon = float(epsilon)
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.U = draw(n, p, fan_in=p)
        self.b = draw(n, fan_in=p)
        self.V = draw(n, n, fan_in=n)
        self.S = draw(n, n, fan_in=n)
        self.C = draw(q, n, fan_in=n)
        self.c = draw(q, fan_in=n)
        psi = torch.zeros if gamma is None else torch.ones
        self.psi = torch.nn.Parameter(psi(n, device=device, dtype=dtype))
        self._gamma = None if gamma is None else float(gamma)
        if learn_gamma and gamma is not None:
            self.log_gamma = torch.nn.Parameter(torch.tensor(math.log(gamma), device=device, dtype=self.b.dtype))
        else:
            self.register_parameter("log_gamma", None)
        self.feedthrough = feedthrough
        if feedthrough:
            d = min(p, q)
            self.D_X = torch.nn.Parameter(torch.eye(d, device=device, dtype=dtype))
            self.D_Y = torch.nn.Parameter(torch.zeros(d, d, device=device, dtype=dtype))
            self.D_Z = draw(abs(q - p), d, fan_in=p)
        self._rule: Rule | None = None
        if gamma is not None and not learn_gamma and not feedthrough:
            self._rule = BoundedRule(1 / (2 * gamma), self.epsilon)
        self.to(device=device, dtype=dtype)

    @property
    def gamma(self) -> float | None:
        """The bound that holds by construction, with respect to the standardised input."""
        return self._gamma if self.log_gamma is None else float(self.log_gamma.detach().double().exp())

    def form(self) -> Form:
        gamma = self._gamma if self.log_gamma is None else self.log_gamma.exp()
        D = None
        if self.feedthrough and gamma is not None:
            W, D = self._recurrent_with_feedthrough(gamma)
        else:
            W = self._recurrent(gamma)
        return forms.dense(
            W, self.U, self.b, self.C, self.c,
            D=D, activation=self.activation, lam=torch.exp(-self.psi), standardisation=self._standardisation(),
        )  # fmt: skip

    def _recurrent(self, gamma: Tensor | float | None) -> Tensor:
        if gamma is not None:
            return bounded_matrix(self.V, self.S, self.psi, self.U, self.C, 1 / (2 * gamma), self.epsilon)
        scale = torch.exp(self.psi)
        return (gram(self.V.mT) + self.S.mT - self.S) * -scale[:, None] + torch.diag(1 - self.epsilon * scale)

    def _recurrent_with_feedthrough(self, gamma: Tensor | float) -> tuple[Tensor, Tensor]:
        """W and D = γN. γ - DᵀD/γ = γ (1 - NᵀN) has the inverse (1 + Nᵀ (1 - NNᵀ)⁻¹ N)/γ (Woodbury)."""
        N = self._contraction()
        scale = torch.exp(self.psi)
        Y = self.U / scale[:, None] + self.C.mT @ N
        YN = Y @ N.mT
        inner = torch.eye(N.shape[0], dtype=N.dtype, device=N.device) - N @ N.mT
        input_term = gram(Y) + YN @ torch.linalg.solve(inner, YN.mT)
        T = gram(self.V.mT) + self.S.mT - self.S + (gram(self.C.mT) + input_term) / (2 * gamma)
        return T * -scale[:, None] + torch.diag(1 - self.epsilon * scale), gamma * N

    def rule(self) -> tuple[Rule, tuple[Tensor, ...]] | None:
        return None if self._rule is None else (self._rule, (self.V, self.S, self.psi, self.C))

    def _contraction(self) -> Tensor:
        """N (q, p) with ‖N‖ < 1, by a Cayley transform (mathematics 5.3)."""
        d = self.D_X.shape[0]
        eye = torch.eye(d, dtype=self.D_X.dtype, device=self.D_X.device)
        M = gram(self.D_X.mT) + self.D_Y - self.D_Y.mT + gram(self.D_Z.mT) + 1e-3 * eye
        if self.out_features >= self.in_features:
            inverse = torch.linalg.inv(eye + M)
            return torch.cat([(eye - M) @ inverse, -2 * self.D_Z @ inverse])
        return torch.linalg.solve(eye + M, torch.cat([eye - M, -2 * self.D_Z.mT], dim=1))

    def guarantee(self) -> Guarantee:
        return Guarantee(self.gamma, torch.exp(-self.psi.detach()))

    @classmethod
    def from_form(
        cls, form: Form, lam: Tensor, gamma: float | None = None, *, settings: Settings | None = None
    ) -> Self:
        """The LBEN that realises a given form without feed-through, for multipliers lam (n,) that prove its bound.

        Raises InputError where 2Λ - ΛW - WᵀΛ - (CᵀC + ΛUUᵀΛ)/γ is not positive definite.
        """
        U, C, W = form.U.dense(), form.C.dense(), form.W.dense()
        n = form.hidden_size
        if bool(form.D.dense().count_nonzero()):
            raise InputError("from_form takes forms without feed-through (D = 0)")
        eye = torch.eye(n, dtype=form.dtype, device=form.device)
        T = lam[:, None] * (eye - W)
        slack = 0.5 * (T + T.mT)
        if gamma is not None:
            slack = slack - (C.mT @ C + (lam[:, None] * U) @ (lam[:, None] * U).mT) / (2 * gamma)
        smallest = float(torch.linalg.eigvalsh(slack)[0])
        if not smallest > 0:
            raise InputError(
                f"these multipliers do not prove the bound {gamma}: the matrix of the proof has eigenvalue {smallest:g}"
            )
        epsilon = 0.5 * smallest
        model = cls(
            form.in_size, n, form.out_size, gamma,
            epsilon=epsilon, activation=form.activation, standardisation=form.standardisation,
            settings=settings, device=form.device, dtype=form.dtype,
        )  # fmt: skip
        skew = 0.5 * (T - T.mT)
        with torch.no_grad():
            model.V.copy_(torch.linalg.cholesky(slack - epsilon * eye).mT)
            model.S.copy_(-0.5 * skew)
            model.psi.copy_(-lam.log())
            for name, value in (("U", U), ("C", C), ("b", form.b), ("c", form.c)):
                getattr(model, name).copy_(value)
        return model

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.hidden_features}, {self.out_features}, gamma={self.gamma}, "
            f"epsilon={self.epsilon:g}, activation={self.activation.kind}"
        )
