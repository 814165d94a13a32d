"""Balls in which perturbations live, and their intersections with a box of valid inputs.

A perturbation δ of x is confined by room: lower <= δ <= upper, the box shifted by x, which holds 0. Everything
here works on batches, rows independently.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import InputError

#: Steps of the scalar searches, and the relative error of the squared size at which they stop early.
_STEPS = 6
_CLOSE = 1e-3


@dataclass(frozen=True)
class Box:
    """Valid raw inputs: lower <= x <= upper in every coordinate."""

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise InputError(f"a box needs lower < upper, got [{self.lower}, {self.upper}]")

    def check(self, x: Tensor) -> None:
        """InputError if an input lies outside."""
        if x.numel() and not (float(x.min()) >= self.lower and float(x.max()) <= self.upper):
            raise InputError(
                f"the inputs run from {float(x.min()):g} to {float(x.max()):g}, outside the box "
                f"[{self.lower:g}, {self.upper:g}]; attack raw inputs, or without a box"
            )


@dataclass(frozen=True, eq=False)
class Room:
    """Where δ may go: lower <= δ <= upper, each (batch, p)."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, x: Tensor, box: Box) -> Room:
        return cls(box.lower - x, box.upper - x)

    def clamp(self, delta: Tensor) -> Tensor:
        return torch.clamp(delta, self.lower, self.upper)

    def corner(self, gradient: Tensor) -> Tensor:
        """The δ that raises a linear function of this gradient most."""
        raised = torch.where(gradient > 0, self.upper, torch.zeros_like(gradient))
        return torch.where(gradient < 0, self.lower, raised)

    def rows(self, rows: Tensor) -> Room:
        return Room(self.lower[rows], self.upper[rows])


def clamp(delta: Tensor, room: Room | None) -> Tensor:
    """δ moved into the room."""
    return delta if room is None else room.clamp(delta)


class Norm(ABC):
    """A way to measure perturbations."""

    #: The name in results.
    name: str

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """(batch,)"""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of size 1 that raises a function of this gradient fastest; 0 where the gradient is."""

    @abstractmethod
    def project(self, delta: Tensor, eps: float, room: Room | None) -> Tensor:
        """The point of size at most ``eps`` in the room that is nearest to δ in l2."""

    @abstractmethod
    def furthest(self, gradient: Tensor, eps: float, room: Room | None) -> Tensor:
        """The δ of size at most ``eps`` in the room that raises a linear function most."""

    @abstractmethod
    def random(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Random perturbations of size at most ``eps``, of the shape, format and device of ``like``."""


@dataclass(frozen=True)
class L2(Norm):
    """Euclidean."""

    name = "l2"

    def size(self, delta: Tensor) -> Tensor:
        return torch.linalg.vecdot(delta, delta).sqrt()

    def direction(self, gradient: Tensor) -> Tensor:
        size = self.size(gradient)[:, None]
        tiny = torch.finfo(gradient.dtype).tiny
        if float(size.min() if len(size) else 1.0) > tiny**0.4:
            return gradient / size
        # The squares of a tiny gradient underflow, and zero has no direction.
        scaled = gradient / gradient.abs().amax(dim=1, keepdim=True).clamp(min=tiny)
        return scaled / self.size(scaled).clamp(min=0.5)[:, None]

    def project(self, delta: Tensor, eps: float, room: Room | None) -> Tensor:
        size = self.size(delta)
        if room is None:
            return delta * (eps / size.clamp(min=eps))[:, None]
        inside = room.clamp(delta)
        outer = self.size(inside) > eps
        if not bool(outer.any()):
            return inside
        # The nearest point is clamp(s δ) for the s in (0, 1] that makes its size eps.
        if bool(outer.all()):
            return _scaled(delta, eps, room)
        rows = outer.nonzero().flatten()
        return inside.index_copy(0, rows, _scaled(delta[rows], eps, room.rows(rows)))

    def furthest(self, gradient: Tensor, eps: float, room: Room | None) -> Tensor:
        direction = self.direction(gradient)
        return direction * eps if room is None else _scaled(direction, eps, room)

    def random(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, dtype=like.dtype)
        radius = torch.rand(like.shape[0], generator=generator, dtype=like.dtype) ** (1 / max(like.shape[1], 1))
        return (self.direction(noise) * (eps * radius)[:, None]).to(like.device)


def onto(v: Tensor, eps: Tensor, room: Room | None) -> Tensor:
    """clamp(s v) of the l2 sizes ``eps`` (batch,), or as long as the room allows."""
    if room is None:
        return v * (eps / torch.linalg.vector_norm(v, dim=1).clamp(min=torch.finfo(v.dtype).tiny))[:, None]
    return _scaled(v, eps[:, None], room)


def _scaled(v: Tensor, eps: float | Tensor, room: Room) -> Tensor:
    """clamp(s v) of l2 size eps, or as long as the room allows.

    Its squared size is a concave, increasing, piecewise linear function of s²: the secant method closes in, and
    what is left over is scaled away, so that the result is never longer than eps.
    """
    tiny = torch.finfo(v.dtype).tiny
    goal = eps * eps
    t = goal / torch.linalg.vecdot(v, v).clamp(min=tiny)[:, None]
    delta = room.clamp(t.sqrt() * v)
    reached = torch.linalg.vecdot(delta, delta)[:, None]
    # From the origin through this point: the chord of a concave function, so the next t is not too large.
    slope = reached / t
    for _ in range(_STEPS):
        short = goal - reached
        if bool((short.abs() <= _CLOSE * goal).all()):
            break
        further = t + torch.where(slope > tiny, short / slope.clamp(min=tiny), 0.0)
        further = torch.minimum(further, 64 * t).clamp(min=tiny)
        delta = room.clamp(further.sqrt() * v)
        now = torch.linalg.vecdot(delta, delta)[:, None]
        step = further - t
        slope = torch.where(step.abs() > tiny, (now - reached) / step, slope)
        t, reached = further, now
    longest = torch.maximum(reached.sqrt(), torch.as_tensor(eps, dtype=v.dtype, device=v.device))
    # Where eps is 0 there is nothing to scale, and 0 / 0 would be no number.
    return delta * (eps / longest.clamp(min=tiny))


@dataclass(frozen=True)
class Linf(Norm):
    """The largest change of any coordinate."""

    name = "linf"

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().amax(dim=1) if delta.shape[1] else delta.new_zeros(delta.shape[0])

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, delta: Tensor, eps: float, room: Room | None) -> Tensor:
        return clamp(delta.clamp(-eps, eps), room)

    def furthest(self, gradient: Tensor, eps: float, room: Room | None) -> Tensor:
        return clamp(gradient.sign() * eps, room)

    def random(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        return ((2 * torch.rand(like.shape, generator=generator, dtype=like.dtype) - 1) * eps).to(like.device)


def nearest_on_plane(gradient: Tensor, rise: Tensor, room: Room | None) -> Tensor:
    """The δ of least l2 size in the room with gradient · δ = rise (batch,), rise >= 0; NaN rows where there is none.

    It is clamp(s gradient), and gradient · clamp(s gradient) is concave and piecewise linear in s: Newton's method
    from below is monotone.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    s = (rise / torch.linalg.vecdot(gradient, gradient).clamp(min=tiny))[:, None]
    delta = clamp(s * gradient, room)
    if room is not None:
        for _ in range(2 * _STEPS):
            free = torch.where(delta == s * gradient, gradient, 0.0)
            reach = torch.linalg.vecdot(free, free)[:, None]
            short = (rise - torch.linalg.vecdot(gradient, delta))[:, None]
            grow = s + short / reach
            s = torch.where((reach > 0) & grow.isfinite(), grow, s)
            delta = room.clamp(s * gradient)
    reached = torch.linalg.vecdot(gradient, delta) >= 0.99 * rise
    return torch.where(reached[:, None], delta, math.nan)
