"""Layers that claim a slope of at most 1: ours, deel-torchlip's and orthogonium's, of the same sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from equilip import nn
from equilip.operators import Circular

torchlip = pytest.importorskip("deel.torchlip", reason='needs deel-torchlip: pip install -e ".[bench]"')
orthogonium = pytest.importorskip("orthogonium.layers", reason='needs orthogonium: pip install -e ".[bench]"')

#: Channels and pixels across of convolutions, and features of dense layers.
CHANNELS, PIXELS, FEATURES = 8, 8, 128

Make = Callable[[], torch.nn.Module]


@dataclass(frozen=True)
class Contestant:
    """One layer, as its package makes it; ``linear``: whether one Jacobian says everything."""

    package: str
    name: str
    make: Make
    linear: bool = True
    dense: bool = False

    def inputs(self, batch: int, generator: torch.Generator) -> Tensor:
        shape = (FEATURES,) if self.dense else (CHANNELS, PIXELS, PIXELS)
        return torch.randn(batch, *shape, generator=generator)


@dataclass(frozen=True)
class Geometry:
    """A convolution of images of ``pixels`` x ``pixels``, with circular padding."""

    pixels: int
    kernel: int
    stride: int
    padding: int


def strided(geometry: Geometry) -> Iterator[Contestant]:
    """The convolutions of this geometry, from 4 channels to 16."""
    from orthogonium.layers.conv.AOL.aol import AOLConv2D

    k, s, p = geometry.kernel, geometry.stride, geometry.padding
    own = {"image_size": geometry.pixels}
    theirs = {"stride": s, "padding": p, "padding_mode": "circular"}
    yield Contestant("equilip", "AOLConv", lambda: nn.AOLConv(4, 16, k, s, Circular(p), **own))
    yield Contestant("equilip", "SpectralConv", lambda: nn.SpectralConv(4, 16, k, s, Circular(p), **own))
    yield Contestant("deel-torchlip", "SpectralConv2d", lambda: torchlip.SpectralConv2d(4, 16, k, **theirs))
    yield Contestant("orthogonium", "AdaptiveOrthoConv2d", lambda: orthogonium.AdaptiveOrthoConv2d(4, 16, k, **theirs))
    yield Contestant("orthogonium", "AOLConv2D", lambda: AOLConv2D(4, 16, k, **theirs))
    yield Contestant("orthogonium", "AOLConv2D, 4 steps", lambda: AOLConv2D(4, 16, k, niter=4, **theirs))


def contestants() -> Iterator[Contestant]:
    """Every layer of the comparison."""
    from orthogonium.layers.conv.AOL.aol import AOLConv2D
    from orthogonium.layers.conv.SLL import SDPBasedLipschitzResBlock

    c, size = CHANNELS, {"image_size": PIXELS}
    around = {"zeros": {"padding": 1}, "circular": {"padding": 1, "padding_mode": "circular"}}
    yield Contestant("torch", "Conv2d (claims nothing)", lambda: torch.nn.Conv2d(c, c, 3, padding=1))
    yield Contestant("equilip", "AOLConv", lambda: nn.AOLConv(c, c, 3, padding=1, **size))
    yield Contestant("equilip", "SpectralConv", lambda: nn.SpectralConv(c, c, 3, padding=1, **size))
    yield Contestant("equilip", "SpectralConv, circular", lambda: nn.SpectralConv(c, c, 3, 1, Circular(1), **size))
    yield Contestant("equilip", "CayleyConv, circular", lambda: nn.CayleyConv(c, c, 3, **size))
    yield Contestant("equilip", "CPLConv", lambda: nn.CPLConv(c, c, 3, padding=1, **size), linear=False)
    yield Contestant("equilip", "SLLConv", lambda: nn.SLLConv(c, c, 3, padding=1, **size), linear=False)
    yield Contestant("equilip", "SandwichConv, circular", lambda: nn.SandwichConv(c, c, 3, **size), linear=False)
    for kind, own in around.items():
        yield Contestant(
            "deel-torchlip", f"SpectralConv2d, {kind}", lambda o=own: torchlip.SpectralConv2d(c, c, 3, **o)
        )
    yield Contestant("deel-torchlip", "FrobeniusConv2d", lambda: torchlip.FrobeniusConv2d(c, c, 3, padding=1))
    for kind, own in around.items():
        ours = {"padding_mode": "zeros", **own}
        yield Contestant(
            "orthogonium", f"AdaptiveOrthoConv2d, {kind}", lambda o=ours: orthogonium.AdaptiveOrthoConv2d(c, c, 3, **o)
        )
    yield Contestant("orthogonium", "AOLConv2D", lambda: AOLConv2D(c, c, 3, padding=1))
    block = lambda: SDPBasedLipschitzResBlock(c, 1.0, 3)  # noqa: E731
    yield Contestant("orthogonium", "SDPBasedLipschitzResBlock", block, linear=False)
    n, dense = FEATURES, {"dense": True}
    yield Contestant("torch", "Linear (claims nothing)", lambda: torch.nn.Linear(n, n), **dense)
    yield Contestant("equilip", "AOL", lambda: nn.AOL(n, n), **dense)
    yield Contestant("equilip", "Spectral", lambda: nn.Spectral(n, n), **dense)
    yield Contestant("equilip", "Cayley", lambda: nn.Cayley(n, n), **dense)
    yield Contestant("deel-torchlip", "SpectralLinear", lambda: torchlip.SpectralLinear(n, n), **dense)
    yield Contestant("deel-torchlip", "FrobeniusLinear", lambda: torchlip.FrobeniusLinear(n, n), **dense)
    yield Contestant("orthogonium", "OrthoLinear", lambda: orthogonium.OrthoLinear(n, n), **dense)
