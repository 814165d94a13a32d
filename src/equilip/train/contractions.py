"""What a configuration says of a convolutional contracting network, and the network that it means."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.train.config import PADDINGS
from equilip.train.toml import nearest
from equilip.wiring import PADDINGS as KINDS


@dataclass(frozen=True)
class ContractionConfig:
    """The part of a network's shape that only convolutional ones have; ``image`` is (channels, height, width)."""

    image: tuple[int, ...]
    channels: int
    kernel: int = 3
    padding: str = "zeros"
    pool: int = 1
    pool_padding: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise ConfigError(f"unknown padding {self.padding!r}; {nearest(self.padding, PADDINGS)}")
        if len(self.image) != 3 or min(self.image) < 1:
            raise ConfigError(
                f"a convolutional network takes images of three dimensions, and this data has shape {self.image}"
            )

    @property
    def neurons(self) -> int:
        _, h, w = self.image
        return self.channels * ((h - 1) // self.stride + 1) * ((w - 1) // self.stride + 1)


def network(
    config: ContractionConfig,
    out_features: int,
    m: float,
    *,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.NEMONConv:
    """The network, freshly initialised on the CPU."""
    c, h, w = config.image
    return nn.NEMONConv(
        (c, h, w), config.channels, out_features, m=m,
        kernel_size=config.kernel, stride=config.stride, padding=KINDS[config.padding],
        pool=config.pool, pool_padding=config.pool_padding,
        activation=activation, standardisation=standardisation, dtype=dtype, generator=generator,
    )  # fmt: skip
