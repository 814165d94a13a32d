"""Feed-forward networks whose outputs move by at most gamma times the sum of the inputs' moves (mathematics 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.constrained import ConstrainedLinear, Norm
from equilip.nn.feedforward import sequential_form
from equilip.nn.guarantee import Guarantee
from equilip.nn.stack import Pointwise
from equilip.nn.standardise import Standardise
from equilip.operators import Dense


class SumBounded(torch.nn.Module):
    """gamma times one layer after the other: |y_k - y_k'| <= gamma Σ_j |ξ_j - ξ_j'| for every output k, any parameters.

    ``layers``: constrained matrices and activations in turn; a matrix that takes sums (:class:`~equilip.nn.Entries`,
    :class:`~equilip.nn.ColumnSums`) has to come before any that gives largest entries, and the last layer is a matrix.
    gamma: the bound, with respect to the standardised input; learn_gamma: train log gamma, starting from this value.
    standardisation: the input layer, kept with the network.

    Raises InputError for a gamma that is not positive, and for layers that do not fit together.
    """

    def __init__(
        self,
        layers: Sequence[ConstrainedLinear | Pointwise],
        gamma: float = 1.0,
        *,
        learn_gamma: bool = False,
        standardisation: Standardisation | None = None,
    ) -> None:
        if not (gamma > 0 and math.isfinite(gamma)):
            raise InputError(f"gamma, the bound on the slope, must be positive, got {gamma}")
        if not layers or not isinstance(layers[-1], ConstrainedLinear):
            raise InputError("the last layer must be a constrained matrix: Entries, RowSums or ColumnSums")
        super().__init__()
        now, features = Norm.SUM, layers[0].in_features
        for layer in layers:
            if layer.in_features != features:
                raise InputError(f"a layer gives {features} numbers, the next takes {layer.in_features}")
            features = layer.out_features
            if isinstance(layer, Pointwise):
                continue
            if not isinstance(layer, ConstrainedLinear):
                raise InputError(f"{type(layer).__name__} is no constrained matrix and no activation")
            if layer.takes is Norm.SUM and now is Norm.LARGEST:
                raise InputError(
                    f"{type(layer).__name__} needs a bound on the sum of changes, and the layers before it bound the "
                    "largest only: use RowSums"
                )
            now = layer.gives
        self.layers = torch.nn.Sequential(*layers)
        self.in_features, self.out_features = layers[0].in_features, layers[-1].out_features
        first = next(layer for layer in layers if isinstance(layer, ConstrainedLinear)).weight
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
        """The whole network as one form, differentiable in the parameters."""
        form, gamma = sequential_form(self.layers), self.scale()
        return replace(
            form,
            C=Dense(form.C.dense() * gamma),
            D=Dense(form.D.dense() * gamma) if not form.hidden_size else form.D,
            c=form.c * gamma,
            standardisation=None if self.input is None else self.input.standardisation(),
        )

    def guarantee(self) -> Guarantee:
        """gamma, from sums of inputs' moves to the largest of the outputs'; proved by the comparison matrix."""
        return Guarantee(self.gamma, next(self.parameters()).new_zeros(0), norm="l1-linf")

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}"
