"""Losses: small frozen objects that turn outputs and labels into one number to minimise.

y: (batch, q), label: (batch,) integers. ``slopes`` is what the network promises about its own slope; the losses
that train for certified radii need it. Every distance is raw.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.train.config import TrainConfig
from equilip.train.slopes import Slopes


class Loss(ABC):
    """A loss; ``needs_slopes`` where it only makes sense for a network with a bound."""

    needs_slopes: bool = False

    @abstractmethod
    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        """The loss of every sample, (batch,)."""

    def __call__(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        """The mean over the batch, ()."""
        return self.each(y, label, slopes).mean()


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """temperature times the cross-entropy of y / temperature; below 1 it approaches the margin loss."""

    temperature: float = 1.0

    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        return self.temperature * torch.nn.functional.cross_entropy(y / self.temperature, label, reduction="none")

    def __call__(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        # The same in one operation less.
        if self.temperature == 1.0:
            return torch.nn.functional.cross_entropy(y, label)
        return self.temperature * torch.nn.functional.cross_entropy(y / self.temperature, label)


@dataclass(frozen=True)
class Margin(Loss):
    """The multi-class hinge: how much the label's lead over the best other class falls short of ``margin``."""

    margin: float = 1.0

    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        return (self.margin - leads(y, label).amin(1)).clamp(min=0)


@dataclass(frozen=True)
class LipschitzMargin(Loss):
    """Cross-entropy in which the label must lead by √2 γ eps: what certifies the sample at ``eps``."""

    eps: float
    temperature: float = 1.0
    needs_slopes = True

    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        return CrossEntropy(self.temperature).each(self._handicapped(y, label, slopes), label, slopes)

    def __call__(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        return CrossEntropy(self.temperature)(self._handicapped(y, label, slopes), label, slopes)

    def _handicapped(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        assert slopes is not None
        own = torch.nn.functional.one_hot(label, y.shape[1]).to(y.dtype)
        return y - math.sqrt(2) * self.eps * slopes.whole() * own


@dataclass(frozen=True)
class Certified(Loss):
    """By how much each sample's certified radius falls short of ``eps``, the radius being that of pair bounds.

    r_j = (y_label - y_j) / L(label, j) is the distance within which class j cannot overtake the label, and the
    smallest of them is the radius. The loss is temperature · log(1 + Σ_j exp((eps - r_j) / temperature)), a soft
    max(0, eps - radius). The bounds L of the current weights are differentiated too, so the network may lower the
    slope between two classes instead of raising their difference; scaling its outputs changes nothing.
    """

    eps: float
    temperature: float = 1.0
    needs_slopes = True

    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        assert slopes is not None
        short = (self.eps - radii(y, label, slopes.pairs())) / self.temperature
        # exp 0 is the 1 inside the logarithm.
        own = torch.nn.functional.one_hot(label, y.shape[1]).bool()
        return self.temperature * torch.logsumexp(short.masked_fill(own, 0.0), 1)


@dataclass(frozen=True)
class SquaredError(Loss):
    """‖y - target‖², for regression: here the label is a target, (batch, q)."""

    def each(self, y: Tensor, label: Tensor, slopes: Slopes | None) -> Tensor:
        return (y - label).square().sum(1)


def radii(y: Tensor, label: Tensor, pairs: Tensor) -> Tensor:
    """(y_label - y_j) / L(label, j), (batch, q), for bounds L (q, q); 0 for the label itself."""
    some = pairs + torch.eye(len(pairs), dtype=pairs.dtype, device=pairs.device)
    return (y.gather(1, label[:, None]) - y) / some[label]


def leads(y: Tensor, label: Tensor) -> Tensor:
    """y_label - y_j for every other class j, (batch, q); infinite for the label itself."""
    own = label[:, None]
    return (y.gather(1, own) - y).scatter(1, own, math.inf)


def loss(config: TrainConfig) -> Loss:
    """The loss that a configuration names."""
    match config.loss:
        case "margin":
            return Margin(config.margin)
        case "lipschitz-margin":
            return LipschitzMargin(config.loss_eps, config.temperature)
        case "certified":
            return Certified(config.loss_eps, config.temperature)
    return CrossEntropy(config.temperature)
