"""The smallest perturbation that changes the class: boundaries are linearised, then followed on shrinking spheres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.attack.attack import Attack, Batch, batches
from equilip.attack.ledger import Ledger
from equilip.attack.losses import difference, lead, rivals
from equilip.attack.norms import L2, clamp, nearest_on_plane, onto
from equilip.errors import InputError

#: What the boundary is overstepped by in the end, one after the other until float64 agrees that the class has changed.
_OVERSHOOTS = (1e-6, 1e-4, 1e-3, 1e-2)

#: By how much a step goes beyond the tangent, so that the boundary is crossed.
_BEYOND = 1 + 1e-2

#: Rival classes looked at in the first place.
_MOST = 20

#: Halvings of the segment from the sample to the adversarial.
_HALVINGS = 16


@dataclass(frozen=True, kw_only=True)
class Minimal(Attack):
    """Searches the nearest point of another class in l2, whatever its distance.

    At the sample the boundaries towards all classes are replaced by their tangents, as DeepFool does, and the
    ``classes`` nearest ones are followed, each by itself: gradient steps towards that class on a sphere around the
    sample, whose radius follows the tangent until the boundary is crossed and closes in on it afterwards, shrinking
    where the class has changed and growing where it has not. steps: for each class. The sizes asked about do not
    change what is searched.
    """

    steps: int = 20
    classes: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.classes < 1:
            raise InputError(f"at least one step and one class are needed, got {self.steps} and {self.classes}")
        if not isinstance(self.norm, L2):
            raise InputError(f"the minimal attack searches in l2, not in {self.norm.name}; use PGD with several eps")

    def _search(self, ledger: Ledger, eps: tuple[float, ...], generator: torch.Generator) -> None:
        for batch in batches(ledger, ledger.standing(0.0)):
            best, size = torch.zeros_like(batch.x), torch.full_like(batch.x[:, 0], torch.inf)
            for other, delta in self._nearest(ledger, batch):
                self._follow(ledger, batch, other, delta, best, size)
            found = size.isfinite().nonzero().flatten()
            if len(found):
                some = batch.select(found)
                _finish(ledger, some, _shorten(ledger, some, best[found]))

    def _nearest(self, ledger: Ledger, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """The classes whose tangents at the samples are nearest, and where: (batch,) and (batch, p) for each."""
        label = batch.label
        count = min(_MOST, ledger.target.out_size - 1)
        y, gradients = ledger.target.gradients(
            batch.x, lambda y: torch.stack([difference(y, label, other) for other in rivals(y, label, count)])
        )
        others = rivals(y, label, count)
        rise = y.gather(1, label[:, None]).mT - y.gather(1, others.mT).mT
        points = torch.stack([nearest_on_plane(g, r, batch.room) for g, r in zip(gradients, rise, strict=True)])
        distance = torch.linalg.vector_norm(points, dim=2).nan_to_num(nan=torch.inf)
        order = distance.argsort(dim=0)[: self.classes]
        if batch.room is not None:
            # A tangent that the box does not reach: where the box comes nearest to it is as good a beginning as any.
            corners = torch.stack([batch.room.corner(g) for g in gradients])
            points = torch.where(points.isnan(), corners, points)
        column = torch.arange(len(label), device=label.device)
        return [(others[k, column], points[k, column]) for k in order]

    def _follow(self, ledger: Ledger, batch: Batch, other: Tensor, delta: Tensor, best: Tensor, size: Tensor) -> None:
        """Follow the boundary towards one class from δ; what changes the class goes into ``best`` and ``size``."""
        label, target = batch.label, ledger.target
        delta = clamp(delta.nan_to_num(nan=0.0) * _BEYOND, batch.room)
        eps = torch.linalg.vector_norm(delta, dim=1)
        crossed = torch.zeros_like(eps, dtype=torch.bool)
        for number in range(self.steps):
            y, gradient = target.gradient(batch.x + delta, lambda y: difference(y, label, other))
            ahead = (y.gather(1, other[:, None]) - y.gather(1, label[:, None]))[:, 0]
            now = _remember(delta, lead(y, label), best, size)
            there = ahead > 0
            crossed |= there
            fall = 0.5 * (1 + math.cos(math.pi * number / self.steps))
            shift = 0.01 + 0.09 * fall
            # Until the boundary has been crossed, the tangent says how far it is; after that, close in on it.
            further = now - ahead / torch.linalg.vector_norm(gradient, dim=1).clamp(min=1e-30) * _BEYOND
            closing = torch.where(there, torch.minimum(now, eps) * (1 - shift), eps * (1 + shift))
            # At least a little, for rounding may hide how far the boundary is.
            further = torch.maximum(further, now * _BEYOND).clamp(max=4 * eps)
            eps = torch.where(crossed, closing, further)
            step = (0.05 + 0.95 * fall) * L2().direction(gradient)
            delta = onto(delta + step * eps[:, None], eps, batch.room)
        _remember(delta, lead(target.output(batch.x + delta), label), best, size)


def _remember(delta: Tensor, height: Tensor, best: Tensor, size: Tensor) -> Tensor:
    """Keep the smallest δ that has changed the class (in place); the sizes of δ."""
    now = torch.linalg.vector_norm(delta, dim=1)
    better = ((height > 0) & (now < size)).nonzero().flatten()
    best[better], size[better] = delta[better], now[better]
    return now


def _shorten(ledger: Ledger, batch: Batch, delta: Tensor) -> Tensor:
    """The shortest multiple s δ, s in (0, 1], that still changes the class, by halving."""
    low, high = torch.zeros_like(delta[:, :1]), torch.ones_like(delta[:, :1])
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        changed = (lead(ledger.target.output(batch.x + middle * delta), batch.label) > 0)[:, None]
        low, high = torch.where(changed, low, middle), torch.where(changed, middle, high)
    return high * delta


def _finish(ledger: Ledger, batch: Batch, delta: Tensor) -> None:
    """Offer the perturbations, a little longer each time, until float64 agrees."""
    open_ = torch.arange(len(batch.rows))
    for overshoot in _OVERSHOOTS:
        broken = ledger.offer(batch.rows[open_], delta[open_.to(delta.device)] * (1 + overshoot))
        open_ = open_[~broken]
        if not len(open_):
            return
