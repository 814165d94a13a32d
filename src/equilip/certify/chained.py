"""What a chain gives at a point, and how far floating point may be from it (mathematics 10.4).

The error of a layer's input grows by the layer's factor at most; what the layer itself loses to rounding is added.
A sum of k products, in any order, is off by γ_k times the same sum of absolute values, whose norm is at most
‖|A|‖ ‖x‖. Everything is in float64, where convolutions are sums of products; those by Fourier transforms are not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from equilip.activations import Activation
from equilip.certify.product import ProductBound
from equilip.chain import Chain
from equilip.links import Linear, Link, Pointwise, Pool, Potential, Sandwich, Scale, spread
from equilip.operators import Circulant, Operator
from equilip.rounding import gamma

EPS = torch.finfo(torch.float64).eps
#: Covers the roundings of the norms and sums of the bound itself.
GROW = 1 + 2.0**-30
#: More than all that underflow can lose in a layer.
TINY = 1e-290

#: Numbers of one layer, over all samples, that are computed at a time.
NUMBERS = 20_000_000


@dataclass(frozen=True, eq=False)
class Outputs:
    """y (batch, q) in float64 as computed, and error (batch,): a proved l2 distance to the exact one."""

    y: Tensor
    error: Tensor


def outputs(chain: Chain, x: Tensor, bound: ProductBound) -> Outputs:
    """The outputs for raw inputs (batch, p), with what rounding may have done to them; ``bound`` is this chain's."""
    exact = chain.detach().to(torch.float64, torch.device("cpu"))
    x = x.detach().to("cpu", torch.float64)
    size = max(1, NUMBERS // max(max(link.in_size, link.neurons) for link in exact.links))
    with torch.no_grad():
        parts = [_outputs(exact, rows, bound) for rows in x.split(size)]
    if not parts:
        return Outputs(x.new_zeros(0, chain.out_size), x.new_zeros(0))
    return Outputs(torch.cat([y for y, _ in parts]), torch.cat([error for _, error in parts]))


def _outputs(chain: Chain, x: Tensor, bound: ProductBound) -> tuple[Tensor, Tensor]:
    y, units = chain.standardise(x), chain.standardisation
    error = torch.zeros(len(x), dtype=torch.float64)
    if units is not None:
        error = 2 * EPS * ((x.abs() + units.mean.abs()) / units.std).norm(dim=1) * GROW + TINY
    for link, factor in zip(chain.links, bound.factors, strict=True):
        y, lost = _layer(link, y)
        error = (factor * error + lost) * GROW + TINY
    return y, torch.where(error.isfinite() & y.isfinite().all(dim=1), error, torch.inf)


def _layer(link: Link, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """What the layer makes of x as stored, and how far that may be from the truth in l2: (batch,)."""
    size = x.norm(dim=1)
    match link:
        case Linear():
            y, lost = _sums(link.map, x)
            if link.bias is not None:
                y = y + spread(link.bias, link.map)
                lost = lost + EPS * y.norm(dim=1)
            return y, lost
        case Pointwise():
            return _activated(link.activation, x, 0.0 * size)
        case Potential():
            z, lost = _neurons(link.map, link.bias, link.activation, x)
            step = 2 / link.metric
            back, own = _sums(link.map, z * spread(step, link.map), adjoint=True)
            y = x - back
            # The quotient and the product are rounded, and what was lost before is multiplied by both.
            through = _absolute(link.map) * float(step.max()) * (lost + 3 * EPS * z.norm(dim=1))
            return y, own + through + EPS * y.norm(dim=1)
        case Sandwich():
            z, lost = _neurons(link.map, link.bias, link.activation, x)
            y, own = _sums(link.back, z)
            return y, own + _absolute(link.back) * lost
        case Pool():
            return link.apply(x), gamma(link.size**2 + 4) * size
        case Scale():
            y = link.apply(x)
            return y, EPS * y.norm(dim=1)
    return link.apply(x), 0.0


def _neurons(map_: Operator, bias: Tensor, activation: Activation, x: Tensor) -> tuple[Tensor, Tensor]:
    """σ(W x + b), likewise."""
    s, lost = _sums(map_, x)
    s = s + spread(bias, map_)
    return _activated(activation, s, lost + EPS * s.norm(dim=1))


def _activated(activation: Activation, s: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """σ(s) where s is off by ``lost``: slopes are at most 1."""
    z = activation.value(s)
    return z, lost + (activation.rounding + 1) * EPS * z.norm(dim=1) + s.shape[1] * TINY


def _sums(map_: Operator, x: Tensor, *, adjoint: bool = False) -> tuple[Tensor, Tensor]:
    """A x or Aᵀ x as sums of products, and what they may lose: (batch, outputs), (batch,)."""
    if isinstance(map_, Circulant):
        kernel = map_.kernel.transpose(0, 1).flip(2, 3) if adjoint else map_.kernel
        k, l = kernel.shape[2:]  # noqa: E741
        # The adjoint reads pixel u - d, the map itself u + d, for taps d from 0 on.
        around = (l - 1, 0, k - 1, 0) if adjoint else (0, l - 1, 0, k - 1)
        image = functional.pad(x.unflatten(-1, (kernel.shape[1], k, l)), around, mode="circular")
        y = functional.conv2d(image, kernel).flatten(1)
    else:
        y = map_.adjoint(x) if adjoint else map_.apply(x)
    # As many products as one channel has numbers, and for an adjoint at most as many as reach one pixel.
    terms = map_.tensors[0].transpose(0, 1)[0] if adjoint else map_.tensors[0][0]
    return y, gamma(terms.numel() + 16) * _absolute(map_) * x.norm(dim=1) * GROW


def _absolute(map_: Operator) -> float:
    """A bound on the norm of the map with its numbers replaced by their absolute values."""
    if isinstance(map_, Circulant):
        return map_.sums()
    return map_.norm_bound()


def margins(chain: Chain, x: Tensor, label: Tensor, bound: ProductBound) -> Tensor:
    """Proved lower bounds (batch, q) on y_label - y_j of the exact network; +inf in the label's own column."""
    found = outputs(chain, x, bound)
    own = found.y.gather(1, label[:, None])
    # A difference of two entries is at most √2 times as far off as the vector, and is rounded itself.
    doubt = 1.5 * found.error[:, None] + EPS * (own - found.y).abs()
    lower = own - found.y - doubt * GROW
    lower = torch.where(lower.isnan(), -torch.inf, lower)
    return lower.scatter(1, label[:, None], torch.inf)
