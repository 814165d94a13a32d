"""Attacks inside a ball of given size: one gradient step, and projected gradient ascent."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equilip.attack.attack import Attack, Batch, batches
from equilip.attack.ledger import Ledger
from equilip.attack.losses import Loss, Margin, lead
from equilip.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """Each size in turn, smallest first: what a smaller one has broken is not attacked again."""

    loss: Loss = field(default_factory=Margin)

    def _search(self, ledger: Ledger, eps: tuple[float, ...], generator: torch.Generator) -> None:
        for size in eps:
            for batch in batches(ledger, ledger.standing(size)):
                self._ascend(ledger, batch, size, generator)

    def _gradient(self, ledger: Ledger, batch: Batch, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs at x + δ and the loss's gradient there."""
        return ledger.target.gradient(batch.x + delta, lambda y: self.loss.cotangent(y, batch.label))

    @abstractmethod
    def _ascend(self, ledger: Ledger, batch: Batch, eps: float, generator: torch.Generator) -> None:
        """Offer perturbations of size at most ``eps``."""


@dataclass(frozen=True, kw_only=True)
class FastGradient(BallAttack):
    """One step of size eps up the loss: the cheapest attack, and the weakest."""

    def _ascend(self, ledger: Ledger, batch: Batch, eps: float, generator: torch.Generator) -> None:
        _, gradient = self._gradient(ledger, batch, torch.zeros_like(batch.x))
        ledger.offer(batch.rows, self.norm.furthest(gradient, eps, batch.room), within=eps)


@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient ascent with momentum and restarts.

    steps: per restart. restarts: the first starts at the sample, later ones at random in the ball. step: the first
    step's length in units of eps; it falls to a fiftieth along a cosine. momentum: what is kept of earlier directions.
    """

    steps: int = 20
    restarts: int = 1
    step: float = 2.0
    momentum: float = 0.5

    #: Steps between looks at which samples are broken.
    _interval = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"PGD needs at least one step and one restart, got {self.steps} and {self.restarts}")
        if not (self.step > 0 and math.isfinite(self.step) and 0 <= self.momentum < 1):
            raise InputError(
                f"PGD needs a positive step and a momentum in [0, 1), got {self.step:g} and {self.momentum:g}"
            )

    def _ascend(self, ledger: Ledger, batch: Batch, eps: float, generator: torch.Generator) -> None:
        for restart in range(self.restarts):
            delta = torch.zeros_like(batch.x)
            if restart:
                delta = self.norm.project(self.norm.random(delta, eps, generator), eps, batch.room)
            self._climb(ledger, batch, delta, eps)
            left = (ledger.size[batch.rows] > eps).nonzero().flatten()
            if not len(left):
                return
            batch = batch.select(left)

    def _climb(self, ledger: Ledger, batch: Batch, delta: Tensor, eps: float) -> None:
        target, norm = ledger.target, self.norm
        velocity = torch.zeros_like(delta)
        best, height = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
        for number in range(self.steps + 1):
            last = number == self.steps
            if last:
                y, gradient = target.output(batch.x + delta), velocity
            else:
                y, gradient = self._gradient(ledger, batch, delta)
            now = lead(y, batch.label)
            higher = ((now > height) & (now > 0)).nonzero().flatten()
            if len(higher):
                best[higher], height[higher] = delta[higher], now[higher]
            if last or number % self._interval == self._interval - 1:
                kept = _offer(ledger, batch, best, height, eps)
                if last or not len(kept):
                    return
                if len(kept) < len(height):
                    batch = batch.select(kept)
                    here = kept.to(delta.device)
                    delta, velocity, gradient = delta[here], velocity[here], gradient[here]
                    best, height = best[here], height[here]
            velocity = self.momentum * velocity + norm.direction(gradient)
            fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * number / self.steps))
            step = self.step * eps * fall
            delta = norm.project(delta + step * norm.direction(velocity), eps, batch.room)


def _offer(ledger: Ledger, batch: Batch, delta: Tensor, height: Tensor, eps: float) -> Tensor:
    """Offer what looks adversarial; which samples of the batch (indices) still stand."""
    standing = torch.ones(len(height), dtype=torch.bool)
    found = (height > 0).nonzero().flatten()
    if len(found):
        standing[found.cpu()] = ~ledger.offer(batch.rows[found.cpu()], delta[found], within=eps)
    return standing.nonzero().flatten()
