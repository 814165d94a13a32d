"""A random walk uphill: for networks in which the steepest patterns of slopes occur at no input (deep ones, say)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.attack.jacobian import Linearised, slopes_at
from equilip.attack.target import FormTarget

#: Steps of every walker, and how many directions it tries at each.
_STEPS = 24
_TRIES = 6


def wander(target: FormTarget, linear: Linearised, x: Tensor, generator: torch.Generator) -> Tensor:
    """Points (batch, p), raw, where the Jacobian's norm is no smaller than at the given ones.

    Each walker tries steps of very different lengths, along data differences and at random, and takes the best if it is
    better.
    """
    standardisation = target.exact.standardisation
    unit = torch.ones_like(x[0]) if standardisation is None else standardisation.std
    spread = float(((x - x.mean(dim=0)) / unit).square().sum(dim=1).mean().sqrt())
    spread = min(max(spread, 1e-6), 1e6)
    norms, _ = linear.steepest(slopes_at(target, x))
    for _ in range(_STEPS):
        noise = torch.randn(_TRIES, *x.shape, generator=generator, dtype=x.dtype)
        toward = x[torch.randint(len(x), (_TRIES, len(x)), generator=generator)] - x
        mixed = torch.rand(_TRIES, len(x), 1, generator=generator, dtype=x.dtype) < 0.5
        step = torch.where(mixed, noise * unit, toward)
        step = step / torch.linalg.vector_norm(step / unit, dim=2, keepdim=True).clamp(min=1e-30)
        length = 10.0 ** (4 * torch.rand(_TRIES, len(x), 1, generator=generator, dtype=x.dtype) - 3) * spread
        proposals = x + length * step
        found, _ = linear.steepest(slopes_at(target, proposals.flatten(0, 1)))
        best, index = found.nan_to_num(nan=0.0).reshape(_TRIES, len(x)).max(dim=0)
        better = best > norms
        x = torch.where(better[:, None], proposals[index, torch.arange(len(x))], x)
        norms = torch.where(better, best, norms)
    return x
