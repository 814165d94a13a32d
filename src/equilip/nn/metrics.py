"""Where the metric Λ of a convolutional network is free: at every neuron, by channel, by pixel, or nowhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from equilip.operators import Shape


@dataclass(frozen=True)
class PixelMetric(ABC):
    """Which of the hidden neurons share a multiplier."""

    @abstractmethod
    def shape(self, hidden: Shape) -> Shape | None:
        """The shape of ψ, 1 along what is shared; None where Λ is fixed at 1."""


@dataclass(frozen=True)
class FullMetric(PixelMetric):
    """A multiplier for every neuron."""

    def shape(self, hidden: Shape) -> Shape:
        return hidden


@dataclass(frozen=True)
class ChannelMetric(PixelMetric):
    """One for every channel."""

    def shape(self, hidden: Shape) -> Shape:
        return hidden[0], 1, 1


@dataclass(frozen=True)
class ImageMetric(PixelMetric):
    """One for every pixel."""

    def shape(self, hidden: Shape) -> Shape:
        return 1, hidden[1], hidden[2]


@dataclass(frozen=True)
class IdentityMetric(PixelMetric):
    """Λ = 1."""

    def shape(self, hidden: Shape) -> None:
        return None
