"""Stacks with layers of every kind, small enough for tests."""

from __future__ import annotations

from collections.abc import Callable

import torch

from equilip import nn
from equilip.activations import LeakyReLU, Sigmoid, Tanh
from equilip.form import Standardisation
from equilip.operators import Circular


def standardisation(features: int, dtype: torch.dtype) -> Standardisation:
    return Standardisation(torch.full((features,), 0.1, dtype=dtype), torch.linspace(0.3, 0.5, features, dtype=dtype))


def images(dtype: torch.dtype, seed: int) -> nn.Stack:
    """8 x 8 pixels, every kind of convolution, padding and glue, strides too."""
    own = {"dtype": dtype, "generator": torch.Generator().manual_seed(seed)}
    four, two = {"image_size": 4}, {"image_size": 2}
    layers: list[nn.LipschitzLayer] = [
        nn.SpaceToDepth(1, 2, image_size=8),
        nn.PadChannels(4, 6, **four),
        nn.SLLConv(6, 5, 3, padding=1, **four, **own),
        nn.MaxMin(6, **four),
        nn.CPLConv(6, 4, 3, 2, 1, activation=Tanh(), **four, **own),
        nn.CPLConv(6, None, 3, 1, Circular(1), **four, **own),
        nn.AOLConv(6, 4, 3, padding=1, **four, **own),
        nn.Pointwise(LeakyReLU(0.1), 64),
        nn.SpectralConv(4, 6, 3, 1, Circular(1), bias=False, **four, **own),
        nn.CayleyConv(6, 4, 3, stride=2, **four, **own),
        nn.SandwichConv(4, 5, 2, **two, **own),
        nn.GroupSort(5, 5, **two),
        nn.ScaledAveragePool2d(5, 2, **two),
        nn.Spectral(5, 3, **own),
    ]
    return nn.Stack(layers, gamma=1.7, standardisation=standardisation(64, dtype))


def dense(dtype: torch.dtype, seed: int) -> nn.Stack:
    """Vectors, every kind of dense layer."""
    own = {"dtype": dtype, "generator": torch.Generator().manual_seed(seed)}
    layers: list[nn.LipschitzLayer] = [
        nn.CPL(6, 9, **own),
        nn.SLL(6, 4, activation=Sigmoid(), **own),
        nn.Sandwich(6, 8, **own),
        nn.AOL(8, 7, **own),
        nn.Pointwise(Tanh(), 7),
        nn.Cayley(7, 6, bias=False, **own),
        nn.MaxMin(6),
        nn.SandwichLinear(6, 5, **own),
        nn.Spectral(5, 4, **own),
    ]
    return nn.Stack(layers)


STACKS: dict[str, Callable[[torch.dtype, int], nn.Stack]] = {"images": images, "dense": dense}


def scattered(stack: nn.Stack, seed: int) -> nn.Stack:
    """The same stack with parameters of any size, some rows zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter *= 10 ** (2 * float(torch.rand((), generator=generator)) - 1)
            if parameter.dim() > 1 and float(torch.rand((), generator=generator)) < 0.3:
                parameter[0] = 0.0
    return stack
