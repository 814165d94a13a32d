"""Networks that rise or fall in chosen inputs: a bounded one and a linear term that outweighs it (mathematics 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.form import Form
from equilip.nn.additive import SumBounded
from equilip.nn.guarantee import Guarantee
from equilip.nn.lben import LBEN
from equilip.nn.module import EquilibriumModule
from equilip.nn.stack import Stack
from equilip.operators import Dense

#: The linear term exceeds the network's bound by this factor, so that the stored numbers keep the promise.
ROOM = 1 + 2.0**-18


class MonotonicWrapper(torch.nn.Module):
    """y = f(x) + λ S ξ: output k never falls where ξ_j grows and S_kj = 1, never rises where S_kj = -1.

    f is a network with a bound γ: ``SumBounded``, or, since no ℓ2 norm exceeds the sum, ``Stack`` or ``LBEN`` with a
    gamma. No output of f moves by more than γ times the move of one input, and λ is γ times ``ROOM``. Where S_kj = 0,
    output k is free in input j.

    directions: (p,) entries 1, -1 and 0, the same for every output, or (q, p), in the buffer ``directions``. Where γ is
    learnt, λ follows it and hands its gradient on. Raises InputError for other entries and other networks.
    """

    directions: Tensor

    def __init__(self, network: SumBounded | Stack | LBEN, directions: Sequence[int] | Tensor) -> None:
        if not isinstance(network, SumBounded | Stack | LBEN):
            raise InputError(
                f"{type(network).__name__} has no bound to outweigh: wrap a SumBounded, a Stack or an LBEN"
            )
        guarantee = network.guarantee()
        if guarantee is None or guarantee.bound is None:
            raise InputError(f"this {type(network).__name__} has no bound to outweigh: give it a gamma")
        p, q = network.in_features, network.out_features
        parameter = next(network.parameters())
        S = torch.as_tensor(directions, device=parameter.device, dtype=parameter.dtype)
        if S.shape not in ((p,), (q, p)) or not bool(((S == 0) | (S.abs() == 1)).all()):
            raise InputError(
                f"directions must be 1, -1 or 0 for each of {p} inputs, (p,) or (q, p), got {tuple(S.shape)}"
            )
        super().__init__()
        self.network = network
        self.in_features, self.out_features = p, q
        self.register_buffer("directions", S.expand(q, p).clone())

    @property
    def gamma(self) -> float:
        """γ, the bound of f that holds by construction, with respect to the standardised input."""
        gamma = self.network.gamma
        assert gamma is not None
        return gamma

    @property
    def slope(self) -> float:
        """λ, the coefficient of the linear term as it is stored."""
        return float(self._slope().detach())

    def _slope(self) -> Tensor:
        """λ (), differentiable where γ is learnt. In double precision until it is stored, so that γ's room is kept."""
        log_gamma = self.network.log_gamma
        if log_gamma is None:
            return self.directions.new_tensor(self.gamma * ROOM)
        return (log_gamma.double().exp() * ROOM).to(self.directions.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) raw -> (..., out_features)."""
        xi = x if self.network.input is None else self.network.input(x)
        return self.network(x) + torch.nn.functional.linear(xi, self._slope() * self.directions)

    def form(self) -> Form:
        """f's form with λ S added to its D, differentiable in the parameters."""
        form = self.network.form()
        return replace(form, D=Dense(form.D.dense() + self._slope() * self.directions))

    def guarantee(self) -> Guarantee | None:
        """That every input has exactly one equilibrium, where f is an equilibrium network; no bound in ℓ2.

        What is monotone is proved by :func:`equilip.certify.monotone`, for these ``directions`` and this ``slope``.
        """
        own = self.network.guarantee()
        return replace(own, bound=None) if own is not None and isinstance(self.network, EquilibriumModule) else None

    def extra_repr(self) -> str:
        up, down = (int((self.directions == sign).any(0).sum()) for sign in (1, -1))
        return f"{self.in_features}, {self.out_features}, {up} inputs rising, {down} falling"
