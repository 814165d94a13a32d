"""Monotone operator networks (monDEQ): any parameters, exactly one equilibrium (mathematics 2.1).

W = (1 - m) I - AᵀA + B - Bᵀ,    so that I - W is strongly monotone with constant m > 0 (Λ = 1).
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
from equilip.nn.gram import gram
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule, check_sizes, uniform
from equilip.nn.node import Rule
from equilip.solve import Settings


@dataclass(frozen=True)
class MonotoneRule(Rule):
    """(A, B) make W."""

    m: float

    def matrix(self, U: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        A, B = parameters
        W = torch.addmm(B - B.mT, A.mT, A, alpha=-1)
        W.diagonal().add_(1 - self.m)
        return W, W

    def pullback(
        self, U: Tensor, *parameters: Tensor, W: Tensor, memory: Tensor, dW: Tensor
    ) -> tuple[None, tuple[Tensor, ...]]:
        return None, ((parameters[0] @ (dW + dW.mT)).neg_(), dW - dW.mT)

    def tracked(self, U: Tensor, *parameters: Tensor) -> Tensor:
        A, B = parameters
        eye = torch.eye(A.shape[0], dtype=A.dtype, device=A.device)
        return (B - B.mT) - gram(A.mT) + (1 - self.m) * eye

    def multipliers(self, *parameters: Tensor) -> Tensor:
        return torch.ones_like(parameters[0][0])


class MonotoneNetwork(EquilibriumModule):
    """z = σ(W z + U ξ + b), y = C z + c, with exactly one equilibrium for any parameters; no bound by construction.

    m: the constant of strong monotonicity, positive. Parameters: A, B (n, n), U (n, p), b (n,), C (q, n), c (q,).
    The certificates of ``equilip.certify`` give it a bound after training. Raises InputError as LBEN does.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        m: float = 1.0,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        settings: Settings | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        if not (m > 0 and math.isfinite(m)):
            raise InputError(f"m must be positive, got {m}")
        super().__init__(standardisation, settings)
        n, p, q = hidden_features, in_features, out_features
        self.in_features, self.hidden_features, self.out_features = p, n, q
        self.m = float(m)
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        self.U = draw(n, p, fan_in=p)
        self.b = draw(n, fan_in=p)
        self.A = draw(n, n, fan_in=n)
        self.B = draw(n, n, fan_in=n)
        self.C = draw(q, n, fan_in=n)
        self.c = draw(q, fan_in=n)
        self.to(device=device, dtype=dtype)

    def form(self) -> Form:
        W = MonotoneRule(self.m).tracked(self.U, self.A, self.B)
        return forms.dense(
            W, self.U, self.b, self.C, self.c,
            activation=self.activation, lam=torch.ones_like(self.b), standardisation=self._standardisation(),
        )  # fmt: skip

    def rule(self) -> tuple[Rule, tuple[Tensor, ...]]:
        return MonotoneRule(self.m), (self.A, self.B)

    def guarantee(self) -> Guarantee:
        return Guarantee(None, torch.ones_like(self.b.detach()))

    @classmethod
    def from_form(cls, form: Form, *, settings: Settings | None = None) -> Self:
        """The monotone network that realises a given form; InputError where I - W is not strongly monotone."""
        W, n = form.W.dense(), form.hidden_size
        if bool(form.D.dense().count_nonzero()):
            raise InputError("from_form takes forms without feed-through (D = 0)")
        eye = torch.eye(n, dtype=form.dtype, device=form.device)
        symmetric = eye - 0.5 * (W + W.mT)
        smallest = float(torch.linalg.eigvalsh(symmetric)[0])
        if not smallest > 0:
            raise InputError(f"I - W is not strongly monotone: its symmetric part has eigenvalue {smallest:g}")
        model = cls(
            form.in_size, n, form.out_size,
            m=0.5 * smallest, activation=form.activation, standardisation=form.standardisation,
            settings=settings, device=form.device, dtype=form.dtype,
        )  # fmt: skip
        with torch.no_grad():
            model.A.copy_(torch.linalg.cholesky(symmetric - 0.5 * smallest * eye).mT)
            model.B.copy_(0.25 * (W - W.mT))
            for name, value in (("U", form.U.dense()), ("C", form.C.dense()), ("b", form.b), ("c", form.c)):
                getattr(model, name).copy_(value)
        return model

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.hidden_features}, {self.out_features}, m={self.m:g}, "
            f"activation={self.activation.kind}"
        )
