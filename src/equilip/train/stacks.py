"""The families of 1-Lipschitz layers as whole networks: hidden layers of one kind, then a last one without neurons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.errors import ConfigError
from equilip.form import Standardisation

_AFFINE: dict[str, Callable[..., nn.AffineLayer]] = {"aol": nn.AOL, "cayley": nn.Cayley, "spectral": nn.Spectral}
_POTENTIAL: dict[str, Callable[..., nn.PotentialLayer]] = {"cpl": nn.CPL, "sll": nn.SLL}


def stack(
    kind: str,
    in_features: int,
    hidden: tuple[int, ...],
    out_features: int,
    gamma: float | None,
    *,
    learn_gamma: bool,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.Stack:
    """The network of a ``kind`` of ``config.STACKS`` with ``hidden`` neurons per layer, freshly initialised.

    Potential layers (cpl, sll) keep the number of inputs and end with a spectral layer. Affine ones (aol, cayley,
    spectral) take turns with the activation and end with one of their kind, sandwiches with their linear half.
    ConfigError without a gamma.
    """
    if gamma is None:
        raise ConfigError(f"a {kind} network has a bound by construction: give gamma, for example 1")
    own: dict[str, Any] = {"dtype": dtype, "generator": generator}
    layers: list[nn.LipschitzLayer] = []
    if kind in _POTENTIAL:
        layers += [_POTENTIAL[kind](in_features, width, activation=activation, **own) for width in hidden]
        layers.append(nn.Spectral(in_features, out_features, **own))
    elif kind == "sandwich":
        sizes = (in_features, *hidden)
        layers += [nn.Sandwich(size, width, activation=activation, **own) for size, width in pairwise(sizes)]
        layers.append(nn.SandwichLinear(sizes[-1], out_features, **own))
    else:
        for size, width in pairwise((in_features, *hidden)):
            layers += [_AFFINE[kind](size, width, **own), nn.Pointwise(activation, width)]
        layers.append(_AFFINE[kind](hidden[-1], out_features, **own))
    return nn.Stack(layers, gamma, learn_gamma=learn_gamma, standardisation=standardisation)
