"""Networks that contract in a weighted maximum norm (NEMON): any parameters, one equilibrium (mathematics 3.3).

    W = m + e^{-d} T e^{d} - diag(|T| 1),    so that  w_ii + Σ_j≠i |w_ij| η_j / η_i <= m < 1  with η = e^{-d}.

The size of the answer is bounded entry by entry, so boxes of inputs become boxes of outputs at the price of a
network of twice the size (``equilip.certify.reachable``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, HardTanh, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation, compose
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import EquilibriumModule, check_sizes, uniform
from equilip.nn.node import Rule
from equilip.operators import Dense
from equilip.solve import Settings, Solution, equilibrium
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
            return _multipliers(self.matrix(parameters[0], *parameters)[0])


def _multipliers(W: Tensor) -> Tensor:
    """Λ (n,) from the comparison matrix, detached; ones where rounding has eaten its slack, as solvers will say."""
    lam = comparison_multipliers(Dense(W.detach()))
    return W.new_ones(len(W)).detach() if lam is None else lam.to(W.dtype)


class Gate(torch.nn.Module):
    """x -> (x - g) / (1 - 2g) clamped to [0, 1]: what is nearly 0 becomes 0, what is nearly 1 becomes 1.

    A change of at most g does not reach the network through inputs that are 0 or 1.
    """

    def __init__(self, g: float) -> None:
        super().__init__()
        self.g = g

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.g) * (1 / (1 - 2 * self.g))).clamp(0, 1)

    def form(self, like: Tensor, size: int) -> Form:
        """The same as a form of ``size`` neurons that read one input each, in the format of ``like``."""
        eye = torch.eye(size, dtype=like.dtype, device=like.device)
        scale = 1 / (1 - 2 * self.g)
        none = eye.new_zeros
        b = torch.full_like(eye[0], -self.g * scale)
        return forms.dense(none(size, size), eye * scale, b, eye, none(size), activation=HardTanh(0.0, 1.0))


class NEMON(EquilibriumModule):
    """z = σ(W z + U ξ + b), y = C z + c, where W contracts in a weighted ℓ∞ norm, for any parameters.

    m: what the weighted matrix measure of W stays below, less than 1. It promises that every input has exactly one
        equilibrium, that Jacobi's iteration finds it, and that ``equilip.certify`` can bound outputs in ℓ∞ and box
        them; such networks are well-posed in ℓ2 too (mathematics 3.5), so every other certificate applies.
    activation: any with slopes in [0, 1]. standardisation: the input layer. settings: how to solve.
    gate: where above 0 (and below 1/2), every input first goes through a neuron of its own, (x - gate) / (1 - 2 gate)
        clamped to [0, 1], which holds back small changes of inputs near 0 and 1. The form then has p neurons more. It
        takes the place of a standardisation.

    Parameters: T (n, n), d (n,), U (n, p), b (n,), C (q, n), c (q,). Raises InputError for sizes that are not
    positive, for m not below 1 and for a gate that makes no sense.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        m: float = 0.0,
        gate: float = 0.0,
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
        if not 0 <= gate < 0.5 or (gate and standardisation is not None):
            raise InputError(f"gate must be at least 0, below 1/2, and without a standardisation beside it: {gate}")
        super().__init__(standardisation, settings)
        n, p, q = hidden_features, in_features, out_features
        self.in_features, self.hidden_features, self.out_features = p, n, q
        self.m = float(m)
        self.gate = Gate(float(gate)) if gate else None
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int, fan_in: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=fan_in, device=device, dtype=dtype, generator=generator)

        # Small, so that boxes start small: rows of |T| add up to about 1/2, and U is a third of torch.nn.Linear's.
        self.U = draw(n, p, fan_in=9 * p)
        self.b = draw(n, fan_in=9 * p)
        self.T = draw(n, n, fan_in=n * n)
        self.d = torch.nn.Parameter(torch.zeros(n, device=device, dtype=dtype))
        self.C = draw(q, n, fan_in=n)
        self.c = draw(q, fan_in=n)
        self.to(device=device, dtype=dtype)

    @property
    def weights(self) -> Tensor:
        """η (n,), positive: the norm max |z_i| / η_i in which W contracts."""
        return torch.exp(-self.d)

    def form(self) -> Form:
        if self.gate is None:
            return self._behind_gate()
        gated = compose(self.gate.form(self.b, self.in_features), self._behind_gate())
        return replace(gated, lam=_multipliers(gated.W.dense()))

    def _behind_gate(self) -> Form:
        """The form of the neurons proper, which reads the gated input where there is a gate."""
        rule, parameters = ContractingRule(self.m), (self.T, self.d)
        return forms.dense(
            rule.tracked(self.U, *parameters), self.U, self.b, self.C, self.c,
            activation=self.activation, lam=rule.multipliers(*parameters), standardisation=self._standardisation(),
        )  # fmt: skip

    def solve(self, x: Tensor, settings: Settings | None = None, *, start: Tensor | None = None) -> Solution:
        """As every network's; behind a gate, whose neurons are known at once, only the others are solved for."""
        if self.gate is None or x.dim() != 2 or x.shape[1] != self.in_features or x.dtype != self.b.dtype:
            return super().solve(x, settings, start=start)
        gated = self.gate(x)
        found = equilibrium(
            self._behind_gate(),
            gated,
            self.settings if settings is None else settings,
            start=None if start is None else start[:, self.in_features :],
        )
        z = torch.cat([gated, found.z], 1)
        return replace(
            found,
            z=z,
            _prove=lambda: self._prover().error(x, z),
            _prove_by_neuron=lambda: self._prover().error_by_neuron(x, z),
        )

    def rule(self) -> tuple[Rule, tuple[Tensor, ...]] | None:
        return None if self.gate is not None else (ContractingRule(self.m), (self.T, self.d))

    def recurrence(self) -> Tensor:
        """W (n, n) of the neurons proper, differentiable; what reads the gated input."""
        return ContractingRule(self.m).tracked(self.U, self.T, self.d)

    def gated(self, x: Tensor) -> Tensor:
        """What U multiplies for raw inputs x: gated or standardised. Monotone in every input."""
        return self.gate(x) if self.gate is not None else x if self.input is None else self.input(x)

    def guarantee(self) -> Guarantee:
        with torch.no_grad():
            lam = self.form().lam
        assert lam is not None
        return Guarantee(None, lam)

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
