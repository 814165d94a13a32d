"""Activations of every kind, arguments that try them, and their exact values."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import settings

from equilip.activations import (
    ELU,
    Activation,
    Blockwise,
    HardTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Tanh,
)

PLAIN: list[Activation] = [
    ReLU(),
    LeakyReLU(),
    LeakyReLU(0.0),
    LeakyReLU(0.3),
    LeakyReLU(1.0),
    HardTanh(),
    HardTanh(-0.25, 6.0),
    Identity(),
    Tanh(),
    Sigmoid(),
    Softplus(),
    ELU(),
    ELU(0.3),
]
SMOOTH = [Tanh(), Sigmoid(), Softplus(), ELU(0.5)]
PROJECTIONS = [ReLU(), HardTanh(), HardTanh(-0.25, 6.0), Identity()]
ALPHAS = [1e-8, 1e-5, 1e-3, 0.07, 0.5, 1.0, 1.7, 30.0, 1e3, 1e6]
EXTREMES = [0.0, 1e-30, 1e-8, 1e-3, 0.3, 1.0, 5.0, 40.0, 800.0, 1e6, 1e18]

every = pytest.mark.parametrize("sigma", PLAIN, ids=repr)
smooth = pytest.mark.parametrize("sigma", SMOOTH, ids=repr)
checked = settings(deadline=None, derandomize=True, max_examples=25)


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Ordinary and extreme arguments of both signs, and the kinks."""
    generator = torch.Generator().manual_seed(0)
    ordinary = 3 * torch.randn(200, generator=generator, dtype=torch.float64)
    extreme = torch.tensor(EXTREMES, dtype=torch.float64)
    return torch.cat([ordinary, extreme, -extreme, torch.tensor([-0.25, 6.0, -1.0])]).to(dtype)


def kinks(sigma: Activation) -> list[float]:
    if isinstance(sigma, HardTanh):
        return [sigma.lower, sigma.upper]
    return [0.0]


def away_from_kinks(sigma: Activation, s: torch.Tensor, distance: float) -> torch.Tensor:
    near = torch.stack([(s - kink).abs() < distance for kink in kinks(sigma)]).any(dim=0)
    return s[~near]


def exact(sigma: Activation, s: float) -> mpmath.mpf:
    """σ(s) in 60 digits."""
    x = mpmath.mpf(s)
    match sigma:
        case ReLU():
            return max(x, mpmath.mpf(0))
        case LeakyReLU():
            return x if x > 0 else sigma.negative_slope * x
        case HardTanh():
            return min(max(x, mpmath.mpf(sigma.lower)), mpmath.mpf(sigma.upper))
        case Tanh():
            return mpmath.tanh(x)
        case Sigmoid():
            return 1 / (1 + mpmath.exp(-x))
        case Softplus():
            return mpmath.log1p(mpmath.exp(x)) if x < 100 else x + mpmath.log1p(mpmath.exp(-x))
        case ELU():
            return x if x > 0 else sigma.alpha * mpmath.expm1(x)
    return x


def mixed() -> Blockwise:
    return Blockwise(((Tanh(), 2), (ReLU(), 1), (LeakyReLU(0.2), 3)))
