"""Learning rates as functions of how far the training is: nothing is remembered, so nothing need be restored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from equilip.train.config import TrainConfig


class Schedule(ABC):
    """The learning rate at ``epoch``, a number that grows from 0 to ``epochs`` with every step."""

    @abstractmethod
    def rate(self, epoch: float, epochs: int) -> float: ...


@dataclass(frozen=True)
class Constant(Schedule):
    """The same throughout."""

    lr: float

    def rate(self, epoch: float, epochs: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(Schedule):
    """Divided by ten after every ``every`` epochs."""

    lr: float
    every: int

    def rate(self, epoch: float, epochs: int) -> float:
        return self.lr * 0.1 ** (math.floor(epoch) // self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From ``lr`` to nothing along half a cosine."""

    lr: float

    def rate(self, epoch: float, epochs: int) -> float:
        return self.lr * _half_cosine(epoch / epochs)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``lr`` during the first 30 %, then down to almost nothing, each along half a cosine."""

    lr: float
    rising: float = 0.3
    first: float = 1 / 25
    last: float = 1e-4

    def rate(self, epoch: float, epochs: int) -> float:
        share = epoch / epochs
        if share < self.rising:
            return self.lr * (1 - (1 - self.first) * _half_cosine(share / self.rising))
        return self.lr * (self.last + (1 - self.last) * _half_cosine((share - self.rising) / (1 - self.rising)))


def _half_cosine(share: float) -> float:
    """1 at 0, 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def schedule(config: TrainConfig) -> Schedule:
    """The schedule that a configuration names."""
    match config.schedule:
        case "step":
            return Step(config.lr, config.step_epochs)
        case "cosine":
            return Cosine(config.lr)
        case "one-cycle":
            return OneCycle(config.lr)
    return Constant(config.lr)
