"""Stacks of layers of slope at most 1, with one bound for the whole (mathematics 4.5, 4.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.feedforward import sequential_form
from equilip.nn.guarantee import Guarantee
from equilip.nn.layer import LipschitzLayer
from equilip.nn.module import check_sizes
from equilip.nn.standardise import Standardise
from equilip.operators import Dense, Zero


class Pointwise(LipschitzLayer):
    """σ(x) of ``features`` numbers, as a layer that is also a form."""

    def __init__(self, activation: Activation, features: int) -> None:
        check_sizes(features=features)
        super().__init__()
        self.activation = activation
        self.in_features = self.out_features = features
        self.register_buffer("like", torch.zeros(0), persistent=False)

    like: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.value(x)

    def form(self) -> Form:
        return forms.pointwise(self.activation, self.in_features, like=self.like)

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self.like.new_ones(self.in_features))

    def extra_repr(self) -> str:
        return f"{self.activation.kind}, {self.in_features}"


class Stack(torch.nn.Module):
    """gamma times one layer after the other: ‖y - y'‖₂ <= gamma ‖ξ - ξ'‖₂ for any parameters.

    Each of the ``layers`` must have slope at most 1. gamma: the bound, with respect to the standardised input;
    learn_gamma: train log gamma, starting from this value. standardisation: the input layer, kept with the network.

    Raises InputError for a gamma that is not positive, for layers that do not fit together, and for layers without
    such a bound.
    """

    def __init__(
        self,
        layers: Sequence[LipschitzLayer],
        gamma: float = 1.0,
        *,
        learn_gamma: bool = False,
        standardisation: Standardisation | None = None,
    ) -> None:
        if not (gamma > 0 and math.isfinite(gamma)):
            raise InputError(f"gamma, the bound on the slope, must be positive, got {gamma}")
        if not layers:
            raise InputError("a stack needs a layer")
        super().__init__()
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if not isinstance(layer, LipschitzLayer) or layer.guarantee().bound != 1.0:
                raise InputError(
                    f"{type(layer).__name__} does not promise a slope of at most 1, as a stack's layers must"
                )
            if following is not None and layer.out_features != following.in_features:
                raise InputError(f"a layer gives {layer.out_features} numbers, the next takes {following.in_features}")
        self.layers = torch.nn.Sequential(*layers)
        self.in_features, self.out_features = layers[0].in_features, layers[-1].out_features
        first = next(layers[0].parameters(), torch.zeros(()))
        self.input: Standardise | None = None
        if standardisation is not None:
            self.input = Standardise(standardisation.mean, standardisation.std, device=first.device, dtype=first.dtype)
        self._gamma = float(gamma)
        log_gamma = torch.tensor(math.log(gamma), device=first.device, dtype=first.dtype)
        self.log_gamma = torch.nn.Parameter(log_gamma) if learn_gamma else None
        self.to(device=first.device, dtype=first.dtype)

    @property
    def gamma(self) -> float:
        """The bound that holds by construction, with respect to the standardised input."""
        return self._gamma if self.log_gamma is None else float(self.log_gamma.detach().double().exp())

    def scale(self) -> Tensor | float:
        """gamma, differentiable where it is learnt."""
        return self._gamma if self.log_gamma is None else self.log_gamma.exp()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) raw -> (..., out_features)."""
        return self.scale() * self.layers(x if self.input is None else self.input(x))

    def form(self) -> Form:
        """The whole stack as one form, differentiable in the parameters."""
        form, gamma = sequential_form(self.layers), self.scale()
        return replace(
            form,
            C=Dense(form.C.dense() * gamma),
            D=form.D if isinstance(form.D, Zero) else Dense(form.D.dense() * gamma),
            c=form.c * gamma,
            lam=self.guarantee().multipliers,
            standardisation=None if self.input is None else self.input.standardisation(),
        )

    def guarantee(self) -> Guarantee:
        """The layers' multipliers prove the whole: at γ = 1 the inequalities of their LMIs add up along the stack."""
        return Guarantee(self.gamma, torch.cat([layer.guarantee().multipliers for layer in self._members()]))

    def _members(self) -> list[LipschitzLayer]:
        return [layer for layer in self.layers if isinstance(layer, LipschitzLayer)]
