"""Networks that contract in a weighted maximum norm (NEMON): any parameters, one equilibrium (mathematics 3.3).

    W = m + e^{-d} T e^{d} - diag(|T| 1),    so that  w_ii + Σ_j≠i |w_ij| η_j / η_i <= m < 1  with η = e^{-d}.

The size of the answer is bounded entry by entry, so boxes of inputs become boxes of outputs at the price of a
network of twice the size (``equilip.certify.reachable``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule, check_sizes, uniform
from equilip.nn.node import Rule
from equilip.operators import Dense
from equilip.solve import Settings
from equilip.solve.multipliers import comparison_multipliers


@dataclass(frozen=True)
class ContractingRule(Rule):
    """(T, d) make W: T (n, n), d (n,)."""

    m: float

    def matrix(self, U: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        T, d = parameters
        own = T * torch.outer(torch.exp(-d), torch.exp(d))
        W = own.clone()
        W.diagonal().add_(self.m - T.abs().sum(1))
        return W, own

    def pullback(
        self, U: Tensor, *parameters: Tensor, W: Tensor, memory: Tensor, dW: Tensor
    ) -> tuple[None, tuple[Tensor, ...]]:
        T, d = parameters
        dT = dW * torch.outer(torch.exp(-d), torch.exp(d)) - T.sign() * dW.diagonal()[:, None]
        moved = dW * memory
        return None, (dT, moved.sum(0) - moved.sum(1))

    def tracked(self, U: Tensor, *parameters: Tensor) -> Tensor:
        T, d = parameters
        return T * torch.exp(d - d[:, None]) + torch.diag_embed(self.m - T.abs().sum(1))

    def multipliers(self, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            W = self.matrix(parameters[0], *parameters)[0]
            lam = comparison_multipliers(Dense(W))
            # Where rounding has eaten the slack there are none to offer, and solvers will say so.
            return torch.ones_like(parameters[1]) if lam is None else lam.to(W.dtype)


class NEMON(EquilibriumModule):
    """z = σ(W z + U ξ + b), y = C z + c, where W contracts in a weighted ℓ∞ norm, for any parameters.

    m: what the weighted matrix measure of W stays below, less than 1. It promises that every input has exactly one
        equilibrium, that Jacobi's iteration finds it, and that ``equilip.certify`` can bound outputs in ℓ∞ and box
        them; such networks are well-posed in ℓ2 too (mathematics 3.5), so every other certificate applies.
    activation: any with slopes in [0, 1]. standardisation: the input layer. settings: how to solve.

    Parameters: T (n, n), d (n,), U (n, p), b (n,), C (q, n), c (q,). Raises InputError for sizes that are not
    positive and for m not below 1.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        m: float = 0.0,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        if not (m < 1 and math.isfinite(m)):
            raise InputError(f"m bounds how much W may stretch in l-infinity and must be below 1, got {m}")
        super().__init__(standardisation, settings)
        n, p, q = hidden_features, in_features, out_features
        self.in_features, self.hidden_features, self.out_features = p, n, q
        self.m = float(m)
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.U = draw(n, p, fan_in=p)
        self.b = draw(n, fan_in=p)
        self.T = draw(n, n, fan_in=n)
        self.d = torch.nn.Parameter(torch.zeros(n, device=device, dtype=dtype))
        self.C = draw(q, n, fan_in=n)
        self.c = draw(q, fan_in=n)
        self.to(device=device, dtype=dtype)

    @property
    def weights(self) -> Tensor:
        """η (n,), positive: the norm max |z_i| / η_i in which W contracts."""
        return torch.exp(-self.d)

    def form(self) -> Form:
        rule, parameters = self.rule()
        return forms.dense(
            rule.tracked(self.U, *parameters), self.U, self.b, self.C, self.c,
            activation=self.activation, lam=rule.multipliers(*parameters), standardisation=self._standardisation(),
        )  # fmt: skip

    def rule(self) -> tuple[Rule, tuple[Tensor, ...]]:
        return ContractingRule(self.m), (self.T, self.d)

    def guarantee(self) -> Guarantee:
        return Guarantee(None, ContractingRule(self.m).multipliers(self.T, self.d))

    @classmethod
    def from_form(cls, form: Form, weights: Tensor, *, settings: Settings | None = None) -> Self:
        """The NEMON that realises a given form without feed-through; ``weights`` (n,) are the η in which W contracts.

        Raises InputError where max_i w_ii + Σ_j≠i |w_ij| η_j / η_i is not below 1.
        """
        W, n = form.W.dense(), form.hidden_size
        if bool(form.D.dense().count_nonzero()):
            raise InputError("from_form takes forms without feed-through (D = 0)")
        if weights.shape != (n,) or not bool((weights > 0).all()):
            raise InputError(f"expected {n} positive weights, got {tuple(weights.shape)}")
        d = -weights.to(form.dtype).log()
        T = W * torch.exp(d[:, None] - d)
        T.diagonal().zero_()
        own = W.diagonal() + T.abs().sum(1)
        m = float(own.amax())
        if not m < 1:
            raise InputError(f"W does not contract in the norm of these weights: its measure is {m:g}, not below 1")
        model = cls(
            form.in_size, n, form.out_size,
            m=m, activation=form.activation, standardisation=form.standardisation,
            settings=settings, device=form.device, dtype=form.dtype,
        )  # fmt: skip
        with torch.no_grad():
            # A negative entry t on the diagonal of T lowers w_ii by 2 |t|.
            T.diagonal().copy_(0.5 * (own - m))
            for name, value in (("T", T), ("d", d), ("U", form.U.dense()), ("C", form.C.dense())):
                getattr(model, name).copy_(value)
            model.b.copy_(form.b)
            model.c.copy_(form.c)
        return model

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.hidden_features}, {self.out_features}, m={self.m:g}, "
            f"activation={self.activation.kind}"
        )
