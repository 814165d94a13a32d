"""Stacks of layers of slope at most 1, with one bound for the whole (mathematics 4.5, 4.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain as joined

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation
from equilip.chain import Chain, Network
from equilip.checker.files import MAX_ROWS
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.links import Scale
from equilip.nn.feedforward import sequential_form
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import ImageLayer
from equilip.nn.layer import LipschitzLayer
from equilip.nn.module import check_sizes
from equilip.nn.standardise import Standardise
from equilip.operators import Dense, Zero
from equilip.rounding import UNIT_ROUNDOFF


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

    def proved_bound(self) -> float:
        return 1.0

    def extra_repr(self) -> str:
        return f"{self.activation.kind}, {self.in_features}"


class Stack(torch.nn.Module):
    """gamma times one layer after the other: ‖y - y'‖₂ <= gamma ‖ξ - ξ'‖₂ for any parameters.

    Each of the ``layers`` must have slope at most 1; those of images get their images flattened. gamma: the bound, with
    respect to the standardised input; learn_gamma: train log gamma, starting from this value. standardisation: the
    input layer, kept with the network.

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
            if not isinstance(layer, LipschitzLayer) or not _keeps_distances(layer):
                raise InputError(
                    f"{type(layer).__name__} does not promise a slope of at most 1, as a stack's layers must"
                )
            if following is not None and layer.out_features != following.in_features:
                raise InputError(f"a layer gives {layer.out_features} numbers, the next takes {following.in_features}")
            if (
                isinstance(layer, ImageLayer)
                and isinstance(following, ImageLayer)
                and layer.out_shape != following.in_shape
            ):
                raise InputError(f"a layer gives images {layer.out_shape}, the next takes {following.in_shape}")
        self.layers = torch.nn.Sequential(*layers)
        self.in_features, self.out_features = layers[0].in_features, layers[-1].out_features
        first = next((own for layer in layers for own in layer.parameters()), torch.zeros(()))
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
        """(..., in_features) raw, or images of the first layer's shape -> (..., out_features)."""
        first = self.layers[0]
        if isinstance(first, ImageLayer) and x.dim() >= 3 and tuple(x.shape[-3:]) == first.in_shape:
            x = x.flatten(-3)
        return self.scale() * self.layers(x if self.input is None else self.input(x))

    def form(self) -> Form:
        """The whole stack as one form, differentiable in the parameters.

        Raises InputError where its matrices would be too large (:func:`equilip.nn.sequential_form`).
        """
        form, gamma = sequential_form(self.layers), self.scale()
        return replace(
            form,
            C=Dense(form.C.dense() * gamma),
            D=form.D if isinstance(form.D, Zero) else Dense(form.D.dense() * gamma),
            c=form.c * gamma,
            lam=self.guarantee().multipliers,
            standardisation=None if self.input is None else self.input.standardisation(),
        )

    def chain(self) -> Chain:
        """The whole stack as a chain of its layers, whatever its size; what large ones are kept and certified as.

        Raises InputError for a layer that chains do not know, and for a stack without parameters.
        """
        from equilip.nn.chained import links_of

        own = [link for layer in self._members() for link in links_of(layer)]
        standardisation = None if self.input is None else self.input.standardisation()
        return Chain((*own, Scale(self.gamma, self.out_features)), standardisation)

    def network(self) -> Network:
        """What the stack is kept and certified as: one form where the checker reads one so large, else a chain."""
        neurons = sum(len(layer.guarantee().multipliers) for layer in self._members())
        return self.form() if neurons + self.out_features <= MAX_ROWS else self.chain()

    def guarantee(self) -> Guarantee:
        """The layers' multipliers prove the whole: at γ = 1 the inequalities of their LMIs add up along the stack."""
        return Guarantee(self.gamma, torch.cat([layer.guarantee().multipliers for layer in self._members()]))

    def factors(self) -> list[tuple[str, float]]:
        """Every layer's name and the bound on its slope that is proved for its stored numbers."""
        return [(type(layer).__name__, layer.proved_bound()) for layer in self._members()]

    def proved_bound(self) -> float:
        """gamma times the product of :meth:`factors`: a bound with respect to the standardised input, for any size.

        A stack that is small enough for one form has smaller ones, which a certificate carries
        (``equilip.certify.lipschitz``).
        """
        factors = [bound for _, bound in self.factors()]
        # The outputs are the last layer's times gamma, each rounded by at most one unit of the number format.
        dtype = next(joined(self.parameters(), self.buffers())).dtype
        rounded = 1 + 4 * torch.finfo(dtype).eps + 2 * len(factors) * UNIT_ROUNDOFF
        return math.prod(factors) * self.gamma * rounded

    def _members(self) -> list[LipschitzLayer]:
        return [layer for layer in self.layers if isinstance(layer, LipschitzLayer)]


def _keeps_distances(layer: LipschitzLayer) -> bool:
    promise = layer.guarantee()
    return promise.norm == "l2" and promise.bound is not None and promise.bound <= 1.0
