"""Gradient ascent of ‖y - y'‖ / ‖x - x'‖ on pairs of inputs, from pairs around given points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip.attack.target import Target

#: Steps of the ascent, and the first step's length in units of the pair's distance.
_STEPS = 40
_FIRST = 0.5


def ascend(target: Target, x: Tensor, *, raw: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (batch, p) and (batch, p), raw, whose slope is large; one pair per point x (batch, p), raw.

    Distances are measured in raw or in standardised units. Wide pairs see the mean slope over a distance, which has
    a gradient even where the network is piecewise linear; so they start at many distances.
    """
    form = target.fast
    standardisation = form.standardisation
    x = x.to(form.device, form.dtype)
    unit = torch.ones_like(x[:1]) if raw or standardisation is None else standardisation.std[None]
    # In coordinates v = x / unit distances are what they should be.
    v = x / unit
    noise = torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)
    noise = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True).clamp(min=1e-30)
    spread = float((v - v.mean(dim=0)).square().sum(dim=1).mean().sqrt()) if len(v) else 1.0
    spread = min(max(spread, 1e-6), 1e6)
    wide = torch.logspace(-2, 0.5, len(v), dtype=v.dtype, device=v.device)[:, None] * spread
    first, second = v - 0.5 * wide * noise, v + 0.5 * wide * noise
    best, height = (first, second), torch.full_like(v[:, 0], -torch.inf)
    for number in range(_STEPS):

        def rise(y: Tensor) -> Tensor:
            change = y[len(v) :] - y[: len(v)]
            change = change / torch.linalg.vecdot(change, change).clamp(min=1e-30)[:, None]
            return torch.cat([-change, change])

        y, gradient = target.gradient(torch.cat([first, second]) * unit, rise)
        gradient = gradient * unit
        apart = second - first
        distance = torch.linalg.vector_norm(apart, dim=1, keepdim=True).clamp(min=1e-4 * spread)
        now = torch.linalg.vector_norm(y[len(v) :] - y[: len(v)], dim=1) / distance[:, 0]
        higher = now > height
        best = (torch.where(higher[:, None], first, best[0]), torch.where(higher[:, None], second, best[1]))
        height = torch.where(higher, now, height)
        down, up = gradient[: len(v)] + apart / distance.square(), gradient[len(v) :] - apart / distance.square()
        # 1 / distance is the gradient's natural size; where it is much smaller there is nothing left to climb.
        length = (down.square() + up.square()).sum(dim=1, keepdim=True).sqrt()
        length = torch.maximum(length, 1e-3 / distance)
        step = _FIRST * 0.5 * (1 + math.cos(math.pi * number / _STEPS)) * distance / length
        usable = (down.isfinite() & up.isfinite() & step.isfinite()).all(dim=1, keepdim=True)
        first, second = torch.where(usable, first + step * down, first), torch.where(usable, second + step * up, second)
    return (best[0] * unit).to("cpu", torch.float64), (best[1] * unit).to("cpu", torch.float64)
