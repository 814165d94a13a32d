"""What an attack tries to raise, as a gradient with respect to the outputs; all work from two classes up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def lead(y: Tensor, label: Tensor) -> Tensor:
    """How far the best other class is above the label: (batch,), positive where the class has changed."""
    own = y.gather(1, label[:, None])
    return y.scatter(1, label[:, None], -torch.inf).amax(dim=1) - own[:, 0]


def rivals(y: Tensor, label: Tensor, count: int) -> Tensor:
    """The ``count`` best other classes, best first: (count, batch)."""
    return y.scatter(1, label[:, None], -torch.inf).topk(count, dim=1).indices.mT


def difference(y: Tensor, label: Tensor, other: Tensor) -> Tensor:
    """The cotangent (batch, q) of y_other - y_label."""
    cotangent = torch.zeros_like(y).scatter_(1, other[:, None], 1.0)
    return cotangent.scatter_(1, label[:, None], -1.0)


class Loss(ABC):
    """A function of the outputs that grows as the label loses."""

    @abstractmethod
    def cotangent(self, y: Tensor, label: Tensor) -> Tensor:
        """Its gradient (batch, q) at the outputs y (batch, q) for the labels (batch,)."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(y)_label. Where the network is very sure the gradient vanishes in the number format."""

    def cotangent(self, y: Tensor, label: Tensor) -> Tensor:
        probability = y.softmax(dim=1)
        return probability.scatter_add(1, label[:, None], torch.full_like(y[:, :1], -1.0))


@dataclass(frozen=True)
class Margin(Loss):
    """The best other output minus the label's; its gradient never vanishes because the network is sure."""

    def cotangent(self, y: Tensor, label: Tensor) -> Tensor:
        return difference(y, label, rivals(y, label, 1)[0])
