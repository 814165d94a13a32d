"""Given slopes: the activation of adjoint equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations.activation import Activation, Step


@dataclass(frozen=True, eq=False)
class Slopes(Activation):
    """σ_i(s) = j_i s with given slopes j in [0, 1], one for every sample and neuron; ``binary``: all 0 or 1.

    The adjoint of an equilibrium is an equilibrium with this activation (mathematics 1.8).
    """

    j: Tensor
    binary: bool = False
    kind = "slopes"
    interval = (0.0, 1.0)
    rounding = 1.0

    def value(self, s: Tensor) -> Tensor:
        return self.j * s

    def slope(self, s: Tensor) -> Tensor:
        return self.j.expand_as(s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        # j/(j + α(1 - j)): free of the division by j that gives NaN at inactive neurons.
        return v * self._factor(alpha)

    def _factor(self, alpha: Step) -> Tensor:
        return self.j if self.binary else self.j / (self.j + alpha * (1 - self.j))

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return (2 * self._factor(alpha) - 1).mul

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        factor = 2 * self._factor(alpha) - 1
        return lambda v: v.mul_(factor)

    def to(self, dtype: torch.dtype) -> Slopes:
        return Slopes(self.j.to(dtype), self.binary)

    def rows(self, rows: Tensor | slice) -> Slopes:
        """The same for some of the samples."""
        return Slopes(self.j[rows], self.binary)
