"""Monotonic classifiers: in some inputs they lean ever more towards one class, in others ever less."""

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
    towards: int | None = None,
    learn_gamma: bool = False,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.MonotonicWrapper:
    """A feed-forward network of ``hidden`` layers, freshly initialised.

    The output of class ``towards`` (the last if None) never falls where an ``increasing`` input grows, and those of all
    other classes never rise: what is classified so stays classified so. ``decreasing`` inputs do the opposite.

    ConfigError for a class and for inputs that the data does not have.
    """
    chosen = out_features - 1 if towards is None else towards
    if not 0 <= chosen < out_features:
        raise ConfigError(f"there is no class {chosen} to lean towards: the data has {out_features}, counted from 0")
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
    network = nn.SumBounded(layers, gamma, learn_gamma=learn_gamma, standardisation=standardisation)
    return nn.MonotonicWrapper(
        network, torch.stack([directions if k == chosen else -directions for k in range(out_features)])
    )
