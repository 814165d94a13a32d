"""What a configuration says of a convolutional network, and the network that it means."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.operators import Circular, InputLayer, Padding, Plain, Weighted, Zeros
from equilip.train.config import LAYERS, METRICS, PADDINGS
from equilip.train.toml import nearest

_METRICS: dict[str, nn.PixelMetric] = {
    "full": nn.FullMetric(),
    "channel": nn.ChannelMetric(),
    "image": nn.ImageMetric(),
    "identity": nn.IdentityMetric(),
}
_PADDINGS: dict[str, Padding] = {"zeros": Zeros(0), "circular": Circular(0)}
_LAYERS: dict[str, type[InputLayer]] = {"weighted": Weighted, "plain": Plain}


@dataclass(frozen=True)
class ConvolutionConfig:
    """The part of a network's shape that only convolutional ones have; ``image`` is (channels, height, width)."""

    image: tuple[int, ...]
    channels: int
    kernel: int = 3
    metric: str = "full"
    padding: str = "zeros"
    pool: int = 1
    pool_padding: int = 0
    layer: str = "weighted"

    def __post_init__(self) -> None:
        for name, choices in (("metric", METRICS), ("padding", PADDINGS), ("layer", LAYERS)):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"unknown {name} {value!r}; {nearest(value, choices)}")
        if len(self.image) != 3 or min(self.image) < 1:
            raise ConfigError(
                f"a convolutional network takes images of three dimensions, and this data has shape {self.image}"
            )

    @property
    def neurons(self) -> int:
        return self.channels * self.image[1] * self.image[2]


def of(model: nn.LBENConv) -> ConvolutionConfig:
    """The configuration of a network."""
    return ConvolutionConfig(
        image=model.shape,
        channels=model.hidden_shape[0],
        kernel=model.kernel_size,
        metric=next(key for key, kind in _METRICS.items() if kind == model.metric),
        padding=next(key for key, kind in _PADDINGS.items() if kind == model.padding),
        pool=model.pool,
        pool_padding=model.pool_padding,
        layer=next(key for key, kind in _LAYERS.items() if kind is model.input_layer),
    )


def network(
    config: ConvolutionConfig,
    out_features: int,
    gamma: float | None,
    epsilon: float,
    *,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.LBENConv:
    """The network, freshly initialised on the CPU."""
    c, h, w = config.image
    return nn.LBENConv(
        (c, h, w), config.channels, out_features, gamma,
        kernel_size=config.kernel, metric=_METRICS[config.metric], padding=_PADDINGS[config.padding],
        pool=config.pool, pool_padding=config.pool_padding, epsilon=epsilon, input_layer=_LAYERS[config.layer],
        activation=activation, standardisation=standardisation, dtype=dtype, generator=generator,
    )  # fmt: skip


def feedforward(
    config: ConvolutionConfig,
    out_features: int,
    *,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.FeedForwardConv:
    """The feed-forward network of these sizes; metric and layer mean nothing to it."""
    c, h, w = config.image
    return nn.FeedForwardConv(
        (c, h, w), config.channels, out_features,
        kernel_size=config.kernel, padding=_PADDINGS[config.padding],
        pool=config.pool, pool_padding=config.pool_padding,
        activation=activation, standardisation=standardisation, dtype=dtype, generator=generator,
    )  # fmt: skip
