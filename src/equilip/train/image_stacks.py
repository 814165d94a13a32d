"""The families of 1-Lipschitz layers on images: convolutions of one kind, pooling, a last layer without neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from equilip import nn
from equilip.activations import Activation
from equilip.checker.files import MAX_INPUTS
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.nn.image import LinearImageLayer
from equilip.nn.image_potential import PotentialConv
from equilip.operators import Circular, Padding, Zeros

_POTENTIAL: dict[str, Callable[..., PotentialConv]] = {"cpl-conv": nn.CPLConv, "sll-conv": nn.SLLConv}
_AFFINE: dict[str, Callable[..., LinearImageLayer]] = {"aol-conv": nn.AOLConv, "spectral-conv": nn.SpectralConv}
_LAST: dict[str, Callable[..., nn.AffineLayer]] = {
    "cpl-conv": nn.Spectral,
    "sll-conv": nn.Spectral,
    "aol-conv": nn.AOL,
    "spectral-conv": nn.Spectral,
    "cayley-conv": nn.Cayley,
    "sandwich-conv": nn.SandwichLinear,
}


@dataclass(frozen=True)
class ImageStackConfig:
    """What such a network is made of: images (channels, height, width) whose blocks of ``patch`` x ``patch`` pixels
    become channels, ``depth`` layers of ``channels`` hidden ones, and sums over ``pool`` x ``pool`` pixels.

    Raises ConfigError for sizes that do not fit, and for networks that the checker does not read.
    """

    kind: str
    image: tuple[int, ...]
    channels: int
    depth: int
    kernel: int = 3
    padding: str = "zeros"
    pool: int = 1
    patch: int = 1

    def __post_init__(self) -> None:
        if len(self.image) != 3 or min(self.image) < 1:
            raise ConfigError(
                f"a {self.kind} network takes images of three dimensions, and this data has shape {self.image}"
            )
        for name, step in (("patch", self.patch), ("pool", self.patch * self.pool)):
            if any(size % step for size in self.image[1:]):
                raise ConfigError(
                    f"images of {self.image[1]} x {self.image[2]} pixels are not made of blocks of {step}, which "
                    f"patch {self.patch} and pool {self.pool} ask for: choose another {name}"
                )
        if self.kind in ("cayley-conv", "sandwich-conv") and self.padding != "circular":
            raise ConfigError(f"the convolutions of a {self.kind} network are circular: give padding circular")
        if self.padding == "circular" and self.kernel > min(self.pixels):
            raise ConfigError(
                f"a kernel of {self.kernel} does not fit on hidden images of {self.pixels[0]} x {self.pixels[1]} "
                "pixels: choose a smaller kernel or patch"
            )
        if self.neurons > MAX_INPUTS:
            raise ConfigError(
                f"layers of {self.neurons} neurons are larger than certificates are checked for ({MAX_INPUTS}): "
                "choose a smaller width (channels) or a larger patch"
            )

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the hidden images."""
        return self.image[1] // self.patch, self.image[2] // self.patch

    @property
    def neurons(self) -> int:
        """Neurons of each layer."""
        return self.channels * self.pixels[0] * self.pixels[1]


def image_stack(
    config: ImageStackConfig,
    out_features: int,
    gamma: float | None,
    *,
    learn_gamma: bool,
    activation: Activation,
    standardisation: Standardisation | None,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> nn.Stack:
    """The network, freshly initialised on the CPU. ConfigError without a gamma."""
    if gamma is None:
        raise ConfigError(f"a {config.kind} network has a bound by construction: give gamma, for example 1")
    own: dict[str, Any] = {"dtype": dtype, "generator": generator}
    size: dict[str, Any] = {"image_size": config.pixels}
    c, k = config.image[0] * config.patch**2, config.kernel
    kind = {"zeros": Zeros, "circular": Circular}[config.padding]
    around: Padding = kind(k // 2)
    layers: list[nn.LipschitzLayer] = []
    if config.patch > 1:
        layers.append(nn.SpaceToDepth(config.image[0], config.patch, image_size=(config.image[1], config.image[2])))
    if config.kind in _POTENTIAL and config.channels > c:
        layers.append(nn.PadChannels(c, config.channels, **size))
        c = config.channels
    for _ in range(config.depth):
        if config.kind in _POTENTIAL:
            layer = _POTENTIAL[config.kind]
            layers.append(layer(c, config.channels, k, 1, around, activation=activation, **size, **own))
            continue
        if config.kind == "sandwich-conv":
            layers.append(nn.SandwichConv(c, config.channels, k, activation=activation, **size, **own))
        else:
            if config.kind == "cayley-conv":
                layers.append(nn.CayleyConv(c, config.channels, k, **size, **own))
            else:
                layers.append(_AFFINE[config.kind](c, config.channels, k, 1, around, **size, **own))
            layers.append(nn.Pointwise(activation, config.neurons))
        c = config.channels
    if config.pool > 1:
        layers.append(nn.ScaledAveragePool2d(c, config.pool, **size))
    features = c * config.pixels[0] * config.pixels[1] // config.pool**2
    layers.append(_LAST[config.kind](features, out_features, **own))
    return nn.Stack(layers, gamma, learn_gamma=learn_gamma, standardisation=standardisation)
