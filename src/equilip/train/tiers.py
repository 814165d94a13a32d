"""What a configuration says of a network of images in tiers, and the network that it means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.operators import tier_shapes
from equilip.train.config import PADDINGS
from equilip.train.toml import nearest
from equilip.wiring import PADDINGS as KINDS


@dataclass(frozen=True)
class TierConfig:
    """The part of a network's shape that only multi-tier ones have; ``image`` is (channels, height, width).

    channels: of the first tier; every other has twice as many as the one before, on images of a quarter the size.
    """

    image: tuple[int, ...]
    channels: int
    tiers: int
    kernel: int = 3
    padding: str = "zeros"
    pool: int = 1

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise ConfigError(f"unknown padding {self.padding!r}; {nearest(self.padding, PADDINGS)}")
        if len(self.image) != 3 or min(self.image) < 1:
            raise ConfigError(
                f"a multi-tier network takes images of three dimensions, and this data has shape {self.image}"
            )
        last = self.shapes[-1] if 2 <= self.tiers <= 16 else None
        if last is None or max(self.image[1:]) <= 2 ** (self.tiers - 2):
            raise ConfigError(
                f"{self.tiers} tiers do not halve images of {self.image[1:]}: choose from 2 on, and fewer"
            )
        if any(size % self.pool for size in last[1:]):
            raise ConfigError(
                f"the last tier's images of {last[1]} x {last[2]} pixels are not made of blocks of {self.pool}: "
                "choose another pool, for example 1"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The hidden images of every tier."""
        c, h, w = self.image
        return tier_shapes((c, h, w), tuple(self.channels * 2**i for i in range(self.tiers)))

    @property
    def neurons(self) -> tuple[int, ...]:
        """Of every tier."""
        return tuple(math.prod(shape) for shape in self.shapes)


def network(
    config: TierConfig,
    out_features: int,
    m: float,
    *,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.MultiTierMonotone:
    """The network, freshly initialised on the CPU."""
    c, h, w = config.image
    return nn.MultiTierMonotone(
        (c, h, w), [shape[0] for shape in config.shapes], out_features, m=m,
        kernel_size=config.kernel, padding=KINDS[config.padding], pool=config.pool,
        activation=activation, standardisation=standardisation, dtype=dtype, generator=generator,
    )  # fmt: skip
