"""Monotonic classifiers of two classes: in some inputs they lean ever more towards class 1, in others ever less."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.errors import ConfigError
from equilip.form import Standardisation


def monotonic(
    in_features: int,
    hidden: Sequence[int],
    out_features: int,
    gamma: float,
    *,
    increasing: Sequence[int],
    decreasing: Sequence[int],
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.MonotonicWrapper:
    """A feed-forward network of ``hidden`` layers, freshly initialised; the output of class 0 goes the other way.

    ConfigError for other than two classes, and for inputs that the data does not have.
    """
    if out_features != 2:
        raise ConfigError(f"a monotonic network leans towards one of two classes, and this data has {out_features}")
    directions = torch.zeros(in_features)
    for inputs, sign in ((increasing, 1.0), (decreasing, -1.0)):
        for j in inputs:
            if j >= in_features:
                raise ConfigError(f"there is no input {j}: the data has {in_features}, counted from 0")
            directions[j] = sign
    own: dict[str, Any] = {"dtype": dtype, "generator": generator}
    layers: list[nn.ConstrainedLinear | nn.Pointwise] = []
    for size, width in pairwise((in_features, *hidden)):
        layers.append(nn.RowSums(size, width, **own) if layers else nn.Entries(size, width, **own))
        layers.append(nn.Pointwise(activation, width))
    layers.append(nn.RowSums(hidden[-1], out_features, **own))
    network = nn.SumBounded(layers, gamma, standardisation=standardisation)
    return nn.MonotonicWrapper(network, torch.stack([-directions, directions]))
