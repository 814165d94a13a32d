"""Activations made of straight pieces: all that is asked of them has a closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations.activation import Activation, Step
from equilip.errors import ActivationError


@dataclass(frozen=True)
class ReLU(Activation):
    """max(0, s)."""

    kind = "relu"
    interval = (0.0, 1.0)
    binary = True
    rounding = 0.0

    def value(self, s: Tensor) -> Tensor:
        return s.relu()

    def slope(self, s: Tensor) -> Tensor:
        # Several times faster than a comparison and a cast.
        return s.sign().relu()

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return v.relu()

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return torch.abs

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return Tensor.abs_


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """s for s > 0, a s below, with the slope a in [0, 1]."""

    negative_slope: float = 0.01
    kind = "leaky_relu"
    rounding = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.negative_slope <= 1.0:
            raise ActivationError(
                f"leaky relu with negative slope {self.negative_slope} is not monotone with slopes in [0, 1]; "
                "choose a negative slope between 0 and 1"
            )

    @property
    def interval(self) -> tuple[float, float]:
        return (self.negative_slope, 1.0)

    def value(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, s, self.negative_slope * s)

    def slope(self, s: Tensor) -> Tensor:
        one = torch.ones((), dtype=s.dtype, device=s.device)
        return torch.where(s > 0, one, self.negative_slope * one)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        a = self.negative_slope
        return torch.where(v > 0, v, v * (a / (a + alpha * (1 - a)))) if a < 1 else v

    def parameters(self) -> dict[str, float]:
        return {"negative_slope": self.negative_slope}


@dataclass(frozen=True)
class HardTanh(Activation):
    """s clamped to [lower, upper]: the projection onto that interval."""

    lower: float = -1.0
    upper: float = 1.0
    kind = "hardtanh"
    interval = (0.0, 1.0)
    binary = True
    rounding = 0.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ActivationError(f"hardtanh needs lower < upper, got [{self.lower}, {self.upper}]")

    def value(self, s: Tensor) -> Tensor:
        return s.clamp(self.lower, self.upper)

    def slope(self, s: Tensor) -> Tensor:
        return ((s > self.lower) & (s < self.upper)).to(s.dtype)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return self.value(v)

    def parameters(self) -> dict[str, float]:
        return {"lower": self.lower, "upper": self.upper}


@dataclass(frozen=True)
class Identity(Activation):
    """s itself: a linear network."""

    kind = "identity"
    interval = (1.0, 1.0)
    binary = True
    rounding = 0.0

    def value(self, s: Tensor) -> Tensor:
        return s

    def slope(self, s: Tensor) -> Tensor:
        return torch.ones_like(s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return v
