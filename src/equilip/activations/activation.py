"""What every guarantee of this library asks of a nonlinearity (mathematics 0, 1.7)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Step = float | Tensor


class Activation(ABC):
    """A nondecreasing function with slopes in [0, 1], applied to every neuron."""

    @abstractmethod
    def value(self, s: Tensor) -> Tensor:
        """σ(s), elementwise, same shape."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        """One element of σ's generalised derivative at s (at a kink: any value in between), same shape."""

    @abstractmethod
    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        """σ(t) for the t with (1 - α) σ(t) + α t = v; α > 0, a number or a tensor that broadcasts."""

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        """The map v -> 2 prox_α(v) - v, which Peaceman-Rachford applies at every step, made ready for one α."""
        return lambda v: 2 * self.prox(v, alpha) - v

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        """The same map, free to overwrite its argument (and then not to be recorded by autograd)."""
        return self.reflection(alpha)

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The smallest interval that holds every secant slope."""

    @property
    def binary(self) -> bool:
        """Whether every slope is 0 or 1 (the function is a projection or the identity)."""
        return False

    @property
    def rounding(self) -> float:
        """Bound on the relative rounding error of ``value``, in units of the last place (0: exact)."""
        return 4.0

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in files and on the command line."""

    def parameters(self) -> dict[str, float]:
        """The numbers that define it beside its kind."""
        return {}

    def to(self, dtype: torch.dtype) -> Activation:
        """The same function for numbers of another format."""
        return self
